"""SQL of the limiter's rule (`ulak.models.ledger.taking` says why): which calls hold a slot, since when one is free."""

from ulak.models.account import BLOCKED_UNTIL


def busy_sql(now: str = "clock_timestamp()", per_seconds: str = "a.limit_per_seconds") -> str:
    """SQL: whether the call `c` of an account holds one of its slots at `now`."""
    return f"c.released_at > {now} - make_interval(secs => {per_seconds})"


FREE_SINCE = f"""greatest(a.last_asked_at, a.pause_changed_at, {BLOCKED_UNTIL}, (
        SELECT c.released_at + make_interval(secs => a.limit_per_seconds) FROM calls c WHERE c.account_id = a.id
        ORDER BY c.released_at DESC OFFSET a.limit_requests - 1 LIMIT 1))"""
"""SQL: since when the account `a` could have been polled and was not; ahead where pause, back-off, breaker or limit
forbid it, null where it never was. Work that waits is stalled since then, or since it is ready if that is later."""
