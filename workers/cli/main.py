"""The entry point of `ulak`.

Settings are read before the commands are imported, since some of what they import reads them too: a wrong setting is
then one sentence and not a traceback.
"""

import sys

from core.settings import SettingsError, load_settings


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    from workers.cli.commands import app  # noqa: PLC0415 - as said above

    app(prog_name="ulak")


if __name__ == "__main__":
    main()
