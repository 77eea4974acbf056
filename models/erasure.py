"""Erasing a person's number (KVKK article 7).

The form is deletion: every row that is about the number goes, with its history, its tracked ids and what was requested
for it. Rows are not anonymised in place, since keys that are made of the number would leave it readable. A tracked id
that does not contain the number (a transaction's) is closed and keeps only the id and its times, by which later reports
are judged. Orders keep their counts: they name nobody. Sealed quarantine entries that a number does not identify
are gone after 14 days; their fingerprints are keyed.

What stays of the person is a keyed hash, with the time of the erasure: in the list of erased people
(`ulak.models.suppression`) and in the record of who erased whom (`ulak.models.events`). Numbers are few enough to be
tried one by one, so no hash stays that can be computed without the key, which is not in the database.

A provider goes on reporting what was sent before. Whatever way such a report comes in, it counts as received and is not
stored. Messages that are sent to the person after the erasure are stored like any other.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from ulak.models.changes import forget_erasures
from ulak.models.database import retry_transaction
from ulak.models.deliveries import delete_deliveries
from ulak.models.keys import join_key
from ulak.models.pseudonyms import pseudonym
from ulak.models.suppression import suppress
from ulak.models.tracked import ERASED

_NATIONAL_DIGITS = 10
_MIN_DIGITS = 7
_MIN_ID_LENGTH = 3
_MIN_WORD_LENGTH = 20
_NUMBER = re.compile(rf"\+[1-9][0-9]{{{_MIN_DIGITS - 1},14}}")
_LIKE_A_NUMBER = re.compile(r"[\s\d()./+\u2010-\u2015-]+")
# A part of a key ends where the key, its text in JSON or (percent-encoded once or more) its part of an outer key ends.
_EDGE = '["]|:|%(25)*3A'


class NoPersonError(ValueError):
    """The text names no person; the sentence says what would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """How many rows were removed or emptied. It names nobody, so it may be kept as the record of the erasure."""

    deliveries: int
    observations: int
    tracked_ids: int
    """Removed, or closed and emptied where the id itself does not contain the number."""
    fetches: int
    """Finished fetches whose parameters, and the hash of them, were overwritten."""
    polls: int
    """Polls that named the number among their ids, or in their idempotency key, and do not any more."""
    quarantined: int
    open_fetches: int
    """Fetches not yet ended, and polls not yet planned, that still name the number: erase again when they have."""


# A conversation's key is sender:receiver:group:day, and only the first two are people. Orders name nobody, so a
# person's id that is an order's too leaves the order.
_FOUND = """
SELECT id, provider_key FROM delivery_status
WHERE recipient = ANY(:spellings)
   OR CASE granularity
      WHEN 'conversation' THEN split_part(provider_key, ':', 1) ~ :form OR split_part(provider_key, ':', 2) ~ :form
      ELSE recipient IS NULL AND (:is_number OR granularity <> 'order') AND provider_key ~ :form END
ORDER BY id FOR UPDATE
"""
_OBSERVATIONS = """
WITH gone AS (DELETE FROM observations WHERE delivery_id = ANY(:deliveries) RETURNING 1) SELECT count(*) FROM gone
"""
_TRACKED = """
WITH gone AS (
  DELETE FROM tracked_ids
  WHERE (:is_number OR recipient IS NULL OR recipient = ANY(:spellings)) AND value ~ :form RETURNING 1
), emptied AS (
  UPDATE tracked_ids SET recipient = NULL, client_ref = NULL, answer_fingerprint = NULL, fetch_id = NULL,
    next_check_at = NULL, closed_at = coalesce(closed_at, clock_timestamp()), close_reason = :erased
  WHERE recipient = ANY(:spellings) AND NOT value ~ :form RETURNING 1
) SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM emptied)
"""
_QUARANTINE = """
WITH gone AS (
  DELETE FROM quarantine WHERE provider_key = ANY(:keys) OR context::text ~ :form OR provider_key ~ :form RETURNING 1
) SELECT count(*) FROM gone
"""
_FETCHES = """
WITH emptied AS (
  UPDATE fetches SET params = '{}', params_hash = 'erased:' || gen_random_uuid(), seen = NULL, page = NULL, label = '',
    last_error = NULL
  WHERE state IN ('done', 'dead', 'cancelled')
    AND concat_ws(' ', params::text, seen::text, page::text, label, last_error) ~ :form RETURNING 1
) SELECT count(*) FROM emptied
"""
# A poll that is planned needs the ids that it named no more; one that is not would register them again.
_POLLS = """
WITH emptied AS (
  UPDATE polls SET
    ids = CASE WHEN ids IS NOT NULL THEN (SELECT coalesce(jsonb_agg(each), '[]') FROM jsonb_array_elements(ids) AS each
      WHERE NOT each::text ~ :form) END,
    idempotency_key = CASE WHEN idempotency_key ~ :form THEN NULL ELSE idempotency_key END
  WHERE (planned_at IS NOT NULL OR state <> 'running') AND concat_ws(' ', ids::text, idempotency_key) ~ :form
  RETURNING 1
) SELECT count(*) FROM emptied
"""
_OPEN_FETCHES = """
SELECT (SELECT count(*) FROM fetches
        WHERE state IN ('ready', 'sending') AND concat_ws(' ', params::text, seen::text, page::text) ~ :form)
     + (SELECT count(*) FROM polls WHERE planned_at IS NULL AND state = 'running'
          AND concat_ws(' ', ids::text, idempotency_key) ~ :form)
"""


def erase_person(engine: Engine, key: bytes, recipient: str, note: Callable[[Connection, Erased], None]) -> Erased:
    """Put a recipient on the list of erased people, then remove what is stored; `note` runs in that transaction.

    Two transactions, so that stores are held up for a moment and not while the tables are read whole. Between them, and
    where the second fails, nothing more of the person is stored; repeat it then. `key` is the person key;
    `OtherPersonKeyError` where the list was made with another. `NoPersonError` as `erase`.
    """
    check_person(recipient)
    retry_transaction(engine, lambda connection: suppress(connection, key, _spellings(recipient)))

    def run(connection: Connection) -> Erased:
        gone = erase(connection, recipient, key)
        note(connection, gone)
        return gone

    return retry_transaction(engine, run)


def erase(connection: Connection, recipient: str, key: bytes | None = None) -> Erased:
    """Remove a recipient, E.164 or a provider's own id of a person, from everything that is stored.

    `key`: the person key, by which accounts with hashed recipients are searched, too.

    `NoPersonError`, and nothing is read or removed, where the text is none of these (`check_person`). Only whole parts
    of keys count: an id that is short stands by chance inside of many others. Reads the tables whole, since keys and
    parameters are not indexed by what they contain. The caller commits.
    """
    check_person(recipient)
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    spellings, form = _spellings(recipient), _form(recipient)
    if key is not None:
        pseudonyms = [pseudonym(key, each) for each in spellings]
        spellings, form = spellings + pseudonyms, f"{form}|(^|{_EDGE})({'|'.join(pseudonyms)})($|{_EDGE})"
    values: dict[str, object] = {"spellings": spellings, "form": form, "is_number": is_number(recipient)}
    values["erased"] = ERASED
    found = connection.execute(text(_FOUND), values).all()
    values |= {"deliveries": [row.id for row in found], "keys": [row.provider_key for row in found]}

    def count(statement: str) -> int:
        return int(connection.execute(text(statement), values).scalar_one())

    forget_erasures(connection)
    return Erased(
        observations=count(_OBSERVATIONS),
        deliveries=delete_deliveries(connection, [row.id for row in found]),
        tracked_ids=count(_TRACKED),
        quarantined=count(_QUARANTINE),
        fetches=count(_FETCHES),
        polls=count(_POLLS),
        open_fetches=count(_OPEN_FETCHES),
    )


def check_person(recipient: str) -> None:
    """`NoPersonError` where the text cannot be a person: what a slip or an unset variable gives would hit others' rows.

    A person is a number in E.164 (7 to 15 digits after the +), or a provider's own id: three letters or digits and
    more, not zeros alone. Digits alone may be an id however few (Diyalog's are); written like a number, with a leading
    0 or separators, they must be as many as a number's. Our own words (`number`, `order`, the names of calls) hold no
    digit and are short, so an id without any digit must be as long as a hash.
    """
    letters = "".join(filter(str.isalnum, recipient))
    if not letters:
        raise NoPersonError("Nobody is named: give a number or a provider's id of a person.")
    if recipient.startswith("+") and not is_number(recipient):
        raise NoPersonError(f"This is no number: write + and {_MIN_DIGITS} to 15 digits, without gaps.")
    if len(letters) < _MIN_ID_LENGTH or not letters.strip("0"):
        raise NoPersonError(
            f"This is too short to name one person: an id has {_MIN_ID_LENGTH} letters or digits at least, not all 0."
        )
    is_plain = recipient.isdigit() and not recipient.startswith("0")
    if _LIKE_A_NUMBER.fullmatch(recipient) and not is_plain and len(letters) < _MIN_DIGITS:
        raise NoPersonError(f"This is too short to be a number: it has {_MIN_DIGITS} digits at least.")
    if len(letters) < _MIN_WORD_LENGTH and not any(map(str.isdigit, letters)):
        raise NoPersonError(
            "This is a word and no person: give a number, or a provider's id of a person"
            f" (it holds a digit, or has {_MIN_WORD_LENGTH} letters at least)."
        )


def is_number(recipient: str) -> bool:
    """Whether it is a phone number in E.164, and so is searched in every spelling of numbers."""
    return _NUMBER.fullmatch(recipient) is not None


def _spellings(recipient: str) -> list[str]:
    """How the recipient may be stored where it stands alone: a number that no rule knew is as its provider wrote it."""
    if not is_number(recipient):
        return [recipient]
    digits = recipient.removeprefix("+")
    short = _national(digits)
    return [recipient, digits, f"00{digits}", *((short, f"0{short}") if short else ())]


def _form(recipient: str) -> str:
    """A regular expression of every spelling of the recipient within keys and parameters."""
    if not is_number(recipient):
        spellings = {recipient, join_key(recipient), join_key(join_key(recipient))}
        return f"(^|{_EDGE})({'|'.join(re.escape(each) for each in sorted(spellings))})($|{_EDGE})"
    digits = recipient.removeprefix("+")
    if short := _national(digits):
        return f"(^|[^0-9])((00)?90|0)?{short}($|[^0-9])"
    return f"(^|[^0-9])(00)?{digits}($|[^0-9])"


def _national(digits: str) -> str | None:
    """The ten digits of a Turkish number; None for a number abroad."""
    return digits[2:] if digits.startswith("90") and len(digits) == 2 + _NATIONAL_DIGITS else None
