"""What a provider repeats of our own request: credentials in its reports, which are stored and shown to people.

A provider that writes the request into a field it returns would otherwise put the account's key into the shared table,
its history, the feed and every file made of them.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from ulak.core.redaction import KnownSecrets
from ulak.models.report import Report
from ulak.providers.adapter import ProviderRecord

MIN_LENGTH: Final = 8
"""A shorter credential is not looked for: it would be found in honest words, and a report be changed for nothing."""


def secrets_of(record: ProviderRecord, credentials: Mapping[str, str]) -> frozenset[str]:
    """Of these credentials those that must not be stored, and what requests carry in their place."""
    secrets = {value for name, value in credentials.items() if name not in record.user_names}
    if record.derived_secret is not None and any(set(names) <= credentials.keys() for names in record.credentials):
        secrets.add(record.derived_secret(credentials))
    return frozenset(each for each in secrets if len(each) >= MIN_LENGTH)


def without_echoes(reports: Sequence[Report], secrets: frozenset[str]) -> Sequence[Report]:
    """The reports with `***` in place of each of the secrets, in whatever a provider may say in its own words.

    Keys, references and recipients stay: they name the subject. A pure function of both, so that a repeated statement
    stays the same observation. The body that they were read from is not searched in their place: a charset or a comment
    within a word would hide part of the report.
    """
    if not secrets:
        return reports
    known = _known(secrets)
    return [_masked(report, known) for report in reports] if _may_hold(reports, known) else reports


def _may_hold(reports: Sequence[Report], known: KnownSecrets) -> bool:
    """Whether any of them may repeat a secret: one search for a batch costs a tenth of looking at each value."""
    try:
        document = msgspec.json.encode([_in_its_words(report) for report in reports]).decode()
    except (TypeError, UnicodeError, ValueError):
        return True
    return known.is_in_json(document)


@lru_cache(maxsize=256)
def _known(secrets: Collection[str]) -> KnownSecrets:
    known = KnownSecrets()
    for each in secrets:
        known.add(each)
    return known


def _in_its_words(report: Report) -> tuple[Any, ...]:
    return report.provider_status, report.provider_error, report.extra, report.statement


def _masked(report: Report, known: KnownSecrets) -> Report:
    texts = _in_its_words(report)
    shown = tuple(_value(each, known) for each in texts)
    if shown == texts:
        return report
    status, error, extra, statement = shown
    return msgspec.structs.replace(
        report.in_full(), provider_status=status, provider_error=error, extra=extra, statement=statement
    )


def _value(value: Any, known: KnownSecrets) -> Any:
    if isinstance(value, str):
        return known.mask(value)
    if isinstance(value, Mapping):
        return {known.mask(str(name)): _value(inner, known) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_value(inner, known) for inner in value]
    return value
