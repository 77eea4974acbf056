"""What an account is configured to do, as it holds now: the accounts file, completed by the provider's defaults."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ulak.api.pages.rendering import Show
from ulak.api.pages.sentences import title_of
from ulak.core.redaction import redact_text
from ulak.models.account import StoredAccount
from ulak.providers import effective
from ulak.providers.adapter import ProviderRecord
from ulak.providers.registry import ADAPTERS
from ulak.providers.statuses import STATUS_MAP

WIDE: Final = ("address", "credentials", "options")
"""Long values, which come last."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One line: the key of its name, and its value for people."""

    key: str
    value: str


def settings_of(account: StoredAccount, show: Show) -> list[Setting]:
    """The settings, without any credential's value: only where each is read from."""
    adapter = ADAPTERS.get(account.provider)
    found = [Setting(key, value) for key, value in _common(account, show)]
    if adapter is not None:
        found += [Setting(key, value) for key, value in _polling(account, adapter.record, show)]
        found += [Setting("options", value) for value in _options(account, show)]
    return sorted(found, key=lambda each: each.key in WIDE)


def _common(account: StoredAccount, show: Show) -> Iterator[tuple[str, str]]:
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
    yield (
        "keep",
        say("config.keep_for_ever") if account.keep_days is None else say("config.keep_value", n=account.keep_days),
    )
    yield "credentials", ", ".join(f"{name} = {place}" for name, place in sorted(account.credentials.items())) or "–"
    if account.ca_file:
        yield "ca_file", account.ca_file
    if account.proxy:
        yield "proxy", redact_text(account.proxy)


def _polling(account: StoredAccount, record: ProviderRecord, show: Show) -> Iterator[tuple[str, str]]:
    say = show.language.say
    if record.sweep_window_days is None:
        yield "every", say("config.every_never")
    else:
        yield "every", say("config.every_value", span=show.span(effective.every_seconds(account)))
        yield "lookback", show.number(effective.lookback_days(account))
        if account.swept_through is not None:
            yield "swept", show.day(account.swept_through)
    if record.is_pulled:
        yield from _checks(account, show)
    yield "validity", show.span(effective.validity(account).total_seconds())
    yield "deadline", show.span(account.deadline_seconds)


def _checks(account: StoredAccount, show: Show) -> Iterator[tuple[str, str]]:
    say = show.language.say
    yield "first_check", say("config.first_check_value", span=show.span(effective.first_check_seconds(account)))
    yield "max_check", show.span(effective.max_check_seconds(account))
    if account.time_factor != 1.0:
        yield "factor", show.number(account.time_factor)
    kinds = sorted(account.poll_plan.get("kinds", {})) if account.is_adaptive else []
    yield "learned", say("config.learned_yes", kinds=", ".join(kinds)) if kinds else say("config.learned_no")


def _options(account: StoredAccount, show: Show) -> Iterator[str]:
    options = effective.options(account)
    shown = [f"{name} = {getattr(options, name)}" for name in options.own_names() if name != STATUS_MAP]
    codes = account.options.get(STATUS_MAP)
    if codes:
        shown.append(f"{STATUS_MAP}: {show.language.say('config.map', n=len(codes))}")
    if shown:
        yield ", ".join(shown)
