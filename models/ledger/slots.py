"""SQL of the limiter's one rule: which calls hold a slot (`ulak.models.ledger.taking` says why)."""


def busy_sql(now: str = "clock_timestamp()", per_seconds: str = "a.limit_per_seconds") -> str:
    """SQL: whether the call `c` of an account holds one of its slots at `now`."""
    return f"c.released_at > {now} - make_interval(secs => {per_seconds})"
