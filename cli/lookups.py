"""`ulak deliveries --file`: many references, keys or numbers looked up at once."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from ulak.cli.session import CommandError, Session, UsageError, report
from ulak.cli.textlines import NoTextError, text_lines
from ulak.models.events import Action
from ulak.models.searches import Identifier, look_up, waiting_for
from ulak.providers.phone_numbers import trimmed

AT_ONCE = 1000
MAX_EACH = 1000
MAX_REPORTED = 50
MAX_VALUE_LENGTH = 400
KINDS = {"ref": Identifier.CLIENT_REF, "key": Identifier.PROVIDER_KEY, "recipient": Identifier.RECIPIENT}


def _spellings(run: Session, by: Identifier, word: str) -> Sequence[str]:
    if by is Identifier.RECIPIENT:
        return run.recorder.spellings(word)
    return run.recorder.key_forms(word) if by is Identifier.PROVIDER_KEY else (word,)


def looked_up(
    run: Session, connection: Connection, file: Path, by: str, account: str | None
) -> Iterator[tuple[Mapping[Any, Any], bool]]:
    """(row, whether a provider has reported it) of what the lines name, in their order: deliveries, or tracked ids.

    Unknown values are reported by line number, never by text, which may be a phone number. Of one identifier
    at most the newest 1,000 deliveries are given. Each number that is searched is recorded before anything is shown.
    """
    if by not in KINDS:
        raise UsageError(f"--by must be one of: {', '.join(KINDS)}.")
    unknown, accounts = 0, None if account is None else (account,)
    lines = _lines(file)
    first = True
    while part := list(islice(lines, AT_ONCE)):
        first = False
        spellings = [_spellings(run, KINDS[by], word) for _, word in part]
        found = look_up(connection, KINDS[by], spellings, accounts=accounts, most=MAX_EACH)
        waiting = waiting_for(connection, KINDS[by], spellings, accounts=accounts)
        if KINDS[by] is Identifier.RECIPIENT:
            marks = run.recorder.marks([word for _, word in part])
            run.saw(*(run.event(Action.PERSON_SEARCHED, account=account, person=mark) for mark in marks))
        for (number, _), forms, rows in zip(part, spellings, found, strict=True):
            unanswered = [each for form in dict.fromkeys(forms) for each in waiting.get(form, ())]
            yield from ((row, True) for row in rows)
            yield from ((row, False) for row in unanswered)
            if not rows and not unanswered:
                unknown += 1
                if unknown <= MAX_REPORTED:
                    report(f"line {number}: nothing is known by it")
                elif unknown == MAX_REPORTED + 1:
                    report("further lines by which nothing is known are only counted")
    if first:
        raise UsageError("The file names nothing: write one reference, key or number a line.")
    if unknown > MAX_REPORTED:
        report(f"Nothing is known by {unknown} lines.")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that is not empty."""
    with contextlib.ExitStack() as stack:
        source = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
        try:
            for number, line in text_lines(source, report):
                # PostgreSQL stores no NUL, so nothing is known by a text that holds one.
                word = trimmed(line).replace("\0", "")[:MAX_VALUE_LENGTH]
                if word:
                    yield number, word
        except NoTextError as error:
            raise CommandError(str(error)) from None
