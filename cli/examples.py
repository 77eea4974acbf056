"""How each command is called: what its `--help` shows below the options. A test parses every line."""

from collections.abc import Mapping, Sequence
from typing import Final

EXAMPLES: Final[Mapping[str, Sequence[str]]] = {
    "up": ("ulak up", "ulak up --sandbox --until-settled --timeout 300", "ULAK_ACCOUNTS=accounts.toml ulak up"),
    "worker": ("ulak worker", "ulak worker --name worker-2 --threads 16"),
    "beat": ("ulak beat",),
    "flower": ("ulak flower",),
    "api": ("ulak api",),
    "migrate": ("ulak migrate",),
    "check": ("ulak check",),
    "accounts check": ("ulak accounts check accounts.toml",),
    "accounts apply": ("ulak accounts apply accounts.toml", "ulak accounts apply accounts.toml --prune"),
    "accounts list": ("ulak accounts list", "ulak accounts list --json"),
    "accounts pause": ('ulak accounts pause marka-sms --why "new key on Monday"',),
    "accounts resume": ("ulak accounts resume marka-sms",),
    "status": ("ulak status", "ulak status marka-sms --json", "ulak status --watch"),
    "poll": ("ulak poll marka-sms --wait", "ulak poll toplu-sms --from 2026-05-01 --to 2026-05-03"),
    "polls list": ("ulak polls list", "ulak polls list marka-sms --state running"),
    "polls cancel": ("ulak polls cancel 17",),
    "track": (
        "ulak track marka-sms transaction=123456 --ref order-77",
        "ulak track marka-sms --file ids.csv",
        "cat ids.jsonl | ulak track marka-sms --file -",
    ),
    "untrack": (
        "ulak untrack marka-sms transaction=123456",
        "ulak untrack marka-sms --file ids.csv",
    ),
    "deliveries": (
        "ulak deliveries --account marka-sms --status undeliverable --since 24h",
        "ulak deliveries --recipient '0530 123 45 67'",
        "ulak deliveries --parent-key 7001 --granularity message",
        "ulak deliveries --file references.txt --format csv",
        "ulak deliveries --since 2026-05-01 --format csv --delimiter ';' > may.csv",
    ),
    "statistics": (
        "ulak statistics",
        "ulak statistics marka-sms --from 2026-05-01 --to 2026-05-31 --by day,reason",
        "ulak statistics --by account,number_range --format csv --delimiter ';' > may.csv",
    ),
    "explain": ("ulak explain order-77", "ulak explain 4711 --json"),
    "export": (
        "ulak export --account marka-sms --month 2026-05 may.parquet",
        "ulak export --account marka-sms --month 2026-05 may.csv",
    ),
    "ingest": ("ulak ingest bildirim reply.json", "cat notice.json | ulak ingest bildirim - --tail report"),
    "dead list": ("ulak dead list --account marka-sms",),
    "dead retry": ("ulak dead retry 12 13", "ulak dead retry --all --account marka-sms"),
    "quarantine list": ("ulak quarantine list --json",),
    "quarantine retry": ("ulak quarantine retry 3", "ulak quarantine retry --all"),
    "quarantine discard": ("ulak quarantine discard 3", "ulak quarantine discard --all --yes"),
    "quarantine reseal": ("ulak quarantine reseal",),
    "rebuild": ("ulak rebuild", "ulak rebuild marka-sms --reread"),
    "erase": ("ulak erase '0530 123 45 67'", "ulak erase +905301234567 --yes"),
    "tokens create": (
        "ulak tokens create dashboard",
        "ulak tokens create shop --role operate --account marka-sms",
    ),
    "tokens list": ("ulak tokens list --json",),
    "tokens revoke": ("ulak tokens revoke shop",),
    "notify test": ("ulak notify test", "ulak notify test webhook"),
    "notify list": ("ulak notify list --waiting",),
    "sessions end": ("ulak sessions end ayse@example.com",),
    "events": (
        "ulak events --account marka-sms --since 24h",
        "ulak events --recipient '0530 123 45 67'",
        "ulak events --action number.revealed --json",
    ),
    "grant-reader": ("ulak grant-reader metabase", "ulak grant-reader metabase --print"),
    "secrets show": ("ulak secrets show",),
}
"""By the command as it is typed, without `ulak`."""


def epilog(lines: Sequence[str]) -> str:
    """The examples as the end of a help text. The first line keeps Typer from wrapping the others."""
    return "\n".join(("\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)))
