"""What an account is configured to do, as it holds now: the accounts file, completed by the provider's defaults."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ulak.api.pages.sentences import title_of
from ulak.api.pages.showing import Show
from ulak.core.redaction import redact_text
from ulak.models.accounts import AccountRecord
from ulak.models.intervals import every_seconds
from ulak.providers.adapter import ProviderRecord
from ulak.providers.registry import ADAPTERS

STATUS_MAP: Final = "status_map"
WIDE: Final = ("address", "credentials", "options")
"""Long values, which come last."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One line: the key of its name, and its value for people."""

    key: str
    value: str


def settings_of(account: AccountRecord, show: Show) -> list[Setting]:
    """The settings, without any credential's value: only where each is read from."""
    adapter = ADAPTERS.get(account.provider)
    found = [Setting(key, value) for key, value in _common(account, show)]
    if adapter is not None:
        found += [Setting(key, value) for key, value in _polling(account, adapter.record, show)]
        found += [Setting("options", value) for value in _options(account, adapter.record, show)]
    return sorted(found, key=lambda each: each.key in WIDE)


def _common(account: AccountRecord, show: Show) -> Iterator[tuple[str, str]]:
    say = show.language.say
    yield "provider", title_of(account.provider)
    yield "address", redact_text(account.base_url)
    yield "zone", show.zone_name(account.id)
    yield (
        "limit",
        say(
            "config.limit_value",
            requests=account.limit_requests,
            span=show.span(account.limit_per_seconds),
            concurrency=account.limit_concurrency,
        ),
    )
    retry = account.retry
    if retry:
        base, cap = (show.span(float(retry.get(name, 0))) for name in ("base_seconds", "cap_seconds"))
        yield "retry", say("config.retry_value", attempts=int(retry.get("max_attempts", 0)), base=base, cap=cap)
    yield "credentials", ", ".join(f"{name} = {place}" for name, place in sorted(account.credentials.items())) or "–"
    if account.ca_file:
        yield "ca_file", account.ca_file
    if account.proxy:
        yield "proxy", redact_text(account.proxy)


def _polling(account: AccountRecord, record: ProviderRecord, show: Show) -> Iterator[tuple[str, str]]:
    say, poll = show.language.say, account.poll
    if record.sweep_window_days is None:
        yield "every", say("config.every_never")
    else:
        every = every_seconds({"poll": poll, "sweep_seconds": account.sweep_seconds}, record.every_seconds)
        yield "every", say("config.every_value", span=show.span(every))
        yield "lookback", show.number(int(poll.get("lookback_days") or record.lookback_days))
        if account.swept_through is not None:
            yield "swept", show.day(account.swept_through)
    if record.id_kinds or record.sweep_window_days is not None:
        yield from _checks(account, record, show)
    validity = float(account.options.get("validity_hours", record.validity_hours))
    yield "validity", show.span(validity * 3600)
    yield "deadline", show.span(float(account.options.get("deadline_seconds", record.deadline_seconds)))


def _checks(account: AccountRecord, record: ProviderRecord, show: Show) -> Iterator[tuple[str, str]]:
    say, poll = show.language.say, account.poll
    first = poll.get("first_check_seconds")
    first_seconds = float(record.poll.steps_seconds[0] if first is None else first)
    yield "first_check", say("config.first_check_value", span=show.span(first_seconds))
    longest = poll.get("max_check_seconds")
    yield "max_check", show.span(float(record.poll.max_seconds if longest is None else longest))
    factor = float(poll.get("time_factor", 1.0))
    if factor != 1.0:
        yield "factor", show.number(factor)
    kinds = sorted(account.poll_plan.get("kinds", {})) if poll.get("adaptive", True) else []
    yield "learned", say("config.learned_yes", kinds=", ".join(kinds)) if kinds else say("config.learned_no")


def _options(account: AccountRecord, record: ProviderRecord, show: Show) -> Iterator[str]:
    shown = [f"{each.name} = {account.options.get(each.name, each.default)}" for each in record.options]
    codes = account.options.get(STATUS_MAP)
    if codes:
        shown.append(f"{STATUS_MAP}: {show.language.say('config.map', n=len(codes))}")
    if shown:
        yield ", ".join(shown)
