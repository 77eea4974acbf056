"""What can be turned on a running sandbox, and the sizes of its worlds."""

from dataclasses import dataclass, field, replace
from typing import Any

PROVIDERS = ("iletimerkezi", "vairo", "organik", "diyalog", "bip")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is sent before and during the first seconds of a world."""

    orders_past: int
    orders_today: int
    orders_arriving: int
    order_recipients: int
    big_order: int
    vairo_sends: int
    organik_transactions: int
    organik_recipients: int
    big_transaction: int
    customers: int
    conversation_days: int
    bip_sends: int
    bip_receivers: int


SIZES = {
    "small": Size(4, 4, 2, 5, 0, 12, 10, 4, 0, 4, 5, 8, 3),
    "demo": Size(22, 32, 6, 20, 1100, 90, 42, 13, 600, 12, 10, 34, 10),
    "large": Size(160, 420, 20, 60, 2500, 1800, 420, 40, 900, 60, 16, 260, 14),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in any window of so many seconds, so many unanswered at once."""

    requests: int
    per_seconds: float
    concurrency: int | None = None


LIMITS = {
    "iletimerkezi": Limit(20, 1.0, 4),
    "vairo": Limit(100, 1.0, 10),
    "organik": Limit(10, 1.0, 1),
    "diyalog": Limit(20, 1.0, 4),
    "bip": Limit(1000, 1.0, None),
}


@dataclass(slots=True)
class Settings:
    """Choices the documents leave open, and stress tests; changed with `POST /settings` or `--set NAME=VALUE`."""

    diyalog_newline: bool = True
    diyalog_max_skew_seconds: float = 900.0
    diyalog_access_key_secret: str | None = None
    organik_batch_cap: int = 100
    organik_xml_wrapped: bool = False
    organik_error_field: str = "both"
    vairo_unknown_status: int = 400
    # Stress tests: off by default, because no document or official client shows them today.
    iletimerkezi_newest_first: bool = False
    iletimerkezi_text_numbers: bool = False
    iletimerkezi_old_details: bool = False
    organik_xml_bare_errors: bool = False
    organik_xml_no_errorcode: bool = False
    diyalog_unknown_is_empty: bool = False
    latency_seconds: float = 0.012
    validity_seconds: float = 0.0
    limits: dict[str, Limit] = field(default_factory=lambda: dict(LIMITS))

    def change(self, values: dict[str, Any]) -> None:
        """Sets the named values; an unknown name or a value of another kind is refused."""
        for name, value in values.items():
            if name == "limits" or name not in self.__slots__:
                raise ValueError(f"there is no setting {name}")
            known = getattr(self, name)
            kinds: Any = (str, type(None)) if known is None else type(known)
            if kinds is float:
                kinds = (int, float)
            if not isinstance(value, kinds):
                raise TypeError(f"{name} takes a value like {known!r}")
            setattr(self, name, value)

    def change_limit(self, provider: str, values: dict[str, Any]) -> Limit:
        """Sets the given parts of one provider's limit."""
        limit = replace(self.limits[provider], **values)
        self.limits[provider] = limit
        return limit
