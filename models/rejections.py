"""Requests that were rejected for a known account: one row for each account and kind, counted.

A stranger can reach the addresses of callbacks, so nothing of a request is stored, and nothing that somebody without a
login can cause overwrites anything else: each kind has its own row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, text

from ulak.models.database import json_parameter

SHOWN_DAYS = 7
"""A kind that has not occurred for this long is no longer shown, and is counted anew when it occurs again."""


class Rejection(StrEnum):
    """Why a request was rejected."""

    NO_SUCH_ADDRESS = "no_such_address"
    NOT_AUTHORISED = "not_authorised"
    WRONG_METHOD = "wrong_method"
    TOO_LARGE = "too_large"
    UNSUPPORTED_CODING = "unsupported_coding"
    NOT_UNPACKED = "not_unpacked"
    NOT_TAKEN = "not_taken"
    BROKEN_OFF = "broken_off"
    CREDENTIAL_MISSING = "credential_missing"


SENTENCES: Mapping[Rejection, str] = {
    Rejection.NO_SUCH_ADDRESS: "404: the account has no callback at this address",
    Rejection.NOT_AUTHORISED: "401 or 404: a callback with a wrong login or secret, or from an address"
    " that is not allowed",
    Rejection.WRONG_METHOD: "405: a callback address was called with a method other than POST",
    Rejection.TOO_LARGE: "413: a body was too large",
    Rejection.UNSUPPORTED_CODING: "415: the Content-Encoding of a body is not supported; the body is in quarantine",
    Rejection.NOT_UNPACKED: "422: a body does not match its Content-Encoding; it is in quarantine",
    Rejection.NOT_TAKEN: "400 or 422: a body that this account does not accept",
    Rejection.BROKEN_OFF: "a request ended before its body was complete",
    Rejection.CREDENTIAL_MISSING: "503: the API process cannot read the account's credentials, so no callback"
    " can be checked",
}
"""Shown to operators, in English; the pages translate them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """How often an account's requests were rejected for one reason, by PostgreSQL's clock."""

    kind: Rejection
    times: int
    first_at: datetime
    last_at: datetime

    @property
    def sentence(self) -> str:
        """The sentence for operators."""
        return SENTENCES[self.kind]


_COUNT = text("""
    INSERT INTO rejections AS r (account_id, kind, times)
    SELECT a.id, e.kind, e.times
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS e(account_id text, kind text, times bigint)
    JOIN accounts a ON a.id = e.account_id
    ORDER BY a.id, e.kind
    ON CONFLICT (account_id, kind) DO UPDATE SET
        last_at = clock_timestamp(),
        first_at = CASE WHEN r.last_at < clock_timestamp() - make_interval(days => :days)
                        THEN clock_timestamp() ELSE r.first_at END,
        times = excluded.times
              + CASE WHEN r.last_at < clock_timestamp() - make_interval(days => :days) THEN 0 ELSE r.times END
""")
_RECENT = text("""
    SELECT account_id, kind, times, first_at, last_at FROM rejections
    WHERE account_id = ANY(:ids) AND last_at > clock_timestamp() - make_interval(days => :days)
    ORDER BY account_id, last_at DESC, kind
""")


def count_rejections(connection: Connection, counts: Mapping[tuple[str, Rejection], int]) -> None:
    """Add these counts, by account and kind; accounts that do not exist are left out."""
    rows = [{"account_id": account, "kind": kind, "times": times} for (account, kind), times in counts.items()]
    connection.execute(_COUNT, {"rows": json_parameter(rows), "days": SHOWN_DAYS})


def recent_rejections(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[Rejected, ...]]:
    """What was rejected within the last `SHOWN_DAYS` for these accounts, the latest first."""
    found: dict[str, list[Rejected]] = {}
    for row in connection.execute(_RECENT, {"ids": list(ids), "days": SHOWN_DAYS}):
        # A newer version may know more kinds.
        if row.kind in set(Rejection):
            told = Rejected(kind=Rejection(row.kind), times=row.times, first_at=row.first_at, last_at=row.last_at)
            found.setdefault(row.account_id, []).append(told)
    return {account: tuple(each) for account, each in found.items()}
