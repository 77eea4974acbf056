"""The entry point of `ulak`.

Settings are read before the commands are imported, since some of what they import reads them too. What is wrong with
them is then one sentence and not a traceback.
"""

import codecs
import os
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from ulak.core.environment import remove_libpq_variables, set_foreign_variables_aside
from ulak.core.settings import SettingsError, load_settings

_ESCAPES: Final = "ulak-escapes"
_LAST_OF_FOUR_DIGITS: Final = 0xFFFF
_FAILED, _WRONG_USAGE = 1, 2


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    _write_everywhere()
    sys.argv[1:] = [_readable(argument) for argument in sys.argv[1:]]
    app = _commands()
    app(prog_name="ulak")


def _commands() -> Callable[..., None]:
    """All commands, imported after the settings were found to be right."""
    set_foreign_variables_aside()
    try:
        if load_settings().database_url is None:
            remove_libpq_variables()
    except SettingsError as error:
        _end(str(error), _FAILED)
    from ulak.cli.commands import app

    return app


def _write_everywhere() -> None:
    """Let no output fail because the terminal's encoding lacks a letter: it is written as JSON escapes it."""
    codecs.register_error(_ESCAPES, _escape)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ESCAPES)


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""`\u015f` for a letter that cannot be encoded: still valid within JSON, unlike Python's own form."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_escaped(letter) for letter in text), error.end


def _escaped(letter: str) -> str:
    code = ord(letter)
    if code <= _LAST_OF_FOUR_DIGITS:
        return f"\\u{code:04x}"
    units = letter.encode("utf-16-be")
    return f"\\u{units[:2].hex()}\\u{units[2:].hex()}"


def _readable(argument: str) -> str:
    """The argument; read as UTF-8 where the locale could not decode it (LANG=C)."""
    if argument.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in argument):
        return argument
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeDecodeError:
        return _end("An argument is no UTF-8 text: use the terminal's encoding, or a UTF-8 locale.", _WRONG_USAGE)


def _end(sentence: str, code: int) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
