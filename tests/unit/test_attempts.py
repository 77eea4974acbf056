"""Wrong secrets, counted for each address."""

import pytest

from ulak.core import clock
from ulak.workers import auth_attempts
from ulak.workers.auth_attempts import MAX_ADDRESSES, MAX_FAILURES, WITHIN_SECONDS, FailedAttempts


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The boot clock, in a list that the test changes."""
    at = [1000.0]
    monkeypatch.setattr(clock, "boot", lambda: at[0])
    return at


def test_only_the_address_that_guesses_is_told_to_wait(now: list[float]) -> None:
    """Ten a minute are answered as usual; another address is not concerned; a minute later all is forgotten."""
    failed = FailedAttempts()
    assert [failed.note("10.0.0.1") for _ in range(MAX_FAILURES + 2)] == [False] * MAX_FAILURES + [True, True]
    assert not failed.note("10.0.0.2")
    now[0] += WITHIN_SECONDS + 1
    assert not failed.note("10.0.0.1")


def test_one_network_of_ipv6_is_one_guesser() -> None:
    """Its holder has 2^64 addresses."""
    failed = FailedAttempts()
    told = [failed.note(f"2001:db8::{n:x}") for n in range(1, MAX_FAILURES + 2)]
    assert told[-1]
    assert not failed.note("2001:db8:0:1::1")
    assert not failed.note("::ffff:10.0.0.1")


def test_many_addresses_fill_no_memory(now: list[float]) -> None:
    """Of more than ten thousand the longest unheard are forgotten."""
    failed = FailedAttempts()
    for n in range(MAX_ADDRESSES + 500):
        failed.note(f"address-{n}")
    assert len(failed._failed) == MAX_ADDRESSES
    assert auth_attempts.MAX_ADDRESSES == MAX_ADDRESSES
