"""Erasing a person's number (KVKK article 7).

The form is deletion: every row that is about the number goes, with its history, its tracked ids and what was asked for
it. Rows are not anonymised in place, since keys that are made of the number would leave it readable. Nor does a hash of
it stay: numbers are few enough to be tried one by one. Orders keep their counts: they name nobody. Sealed quarantine
entries that cannot be told apart by number are gone after 14 days; their fingerprints are keyed.

What a provider says *afterwards* about the number is stored again like any other report, so a number is erased once the
provider has nothing more to say, or after it has erased the number too.
"""

import re
from dataclasses import dataclass

from sqlalchemy import Connection, text

from models.changes import forget_erasures
from models.keys import join_key

_NATIONAL_DIGITS = 10
# A part of a key ends where the key, its text in JSON or (percent-encoded once or more) its part of an outer key ends.
_EDGE = '["]|:|%(25)*3A'


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """How many rows were removed or emptied. It names nobody, so it may be kept as the record of the erasure."""

    deliveries: int
    observations: int
    tracked_ids: int
    fetches: int
    """Finished fetches whose parameters, and the hash of them, were overwritten."""
    polls: int
    """Polls that named the number among their ids, or in their idempotency key, and do not any more."""
    quarantined: int
    open_fetches: int
    """Fetches not yet ended, and polls not yet planned, that still name the number: erase again when they have."""


_OBSERVATIONS = """
WITH gone AS (DELETE FROM observations WHERE delivery_id = ANY(:deliveries) RETURNING 1) SELECT count(*) FROM gone
"""
# The feed of changes tells that these ids are gone.
_DELIVERIES = """
WITH gone AS (DELETE FROM delivery_status WHERE id = ANY(:deliveries) RETURNING id),
  told AS (INSERT INTO delivery_erasures (delivery_id) SELECT id FROM gone)
SELECT count(*) FROM gone
"""
_TRACKED = """
WITH gone AS (
  DELETE FROM tracked_ids
  WHERE recipient = :recipient OR ((:is_number OR recipient IS NULL) AND value ~ :form) RETURNING 1
) SELECT count(*) FROM gone
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


def erase(connection: Connection, recipient: str) -> Erased:
    """Remove a recipient, E.164 or a provider's own id of a person, from everything that is stored.

    Only whole parts of keys count: an id that is short stands by chance inside of many others. Reads the tables whole,
    since keys and parameters are not indexed by what they contain. The caller commits.
    """
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    form, is_number = _form(recipient)
    found = connection.execute(
        text(
            "SELECT id, provider_key FROM delivery_status WHERE recipient = :recipient"
            " OR ((recipient IS NULL OR granularity = 'conversation') AND provider_key ~ :form) ORDER BY id FOR UPDATE"
        ),
        {"recipient": recipient, "form": form},
    ).all()
    values = {
        "recipient": recipient,
        "form": form,
        "is_number": is_number,
        "deliveries": [row.id for row in found],
        "keys": [row.provider_key for row in found],
    }

    def count(statement: str) -> int:
        return int(connection.execute(text(statement), values).scalar_one())

    forget_erasures(connection)
    return Erased(
        observations=count(_OBSERVATIONS),
        deliveries=count(_DELIVERIES),
        tracked_ids=count(_TRACKED),
        quarantined=count(_QUARANTINE),
        fetches=count(_FETCHES),
        polls=count(_POLLS),
        open_fetches=count(_OPEN_FETCHES),
    )


def _form(recipient: str) -> tuple[str, bool]:
    """A regular expression of every spelling of the recipient within keys and parameters; whether it is a number."""
    digits = recipient.removeprefix("+")
    if not (recipient.startswith("+") and digits.isascii() and digits.isdigit()):
        spellings = {recipient, join_key(recipient), join_key(join_key(recipient))}
        return f"(^|{_EDGE})({'|'.join(re.escape(each) for each in sorted(spellings))})($|{_EDGE})", False
    if digits.startswith("90"):
        return f"(^|[^0-9])((00)?90|0)?{digits[-_NATIONAL_DIGITS:]}($|[^0-9])", True
    return f"(^|[^0-9])(00)?{digits}($|[^0-9])", True
