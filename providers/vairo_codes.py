"""What Vairo's words and codes mean, for people. Sources: its pages numara-gonderim-raporu and hata-mesajlari."""

from collections.abc import Mapping
from typing import Final

from ulak.models.vocabulary import Granularity
from ulak.providers.adapter import CodeMeanings

_WORDS: Final[Mapping[str, str]] = {
    "DEFAULT": "not processed yet",
    "SENDING": "message is being sent",
    "WAITING": "sent, waiting for the operator's answer",
    "DELIVERED": "delivered",
    "SENT": "sent, but the operator gives no delivery reports",
    "NOT_DELIVERED": "not delivered, mostly because the number is not active",
    "EXPIRED": "validity has ended",
    "INVALID_DESTINATION_ADDRESS": "the number is registered with no operator",
    "REJECTED": "rejected, mostly by the operator's content control",
    "SEND_ERROR": "sending failed, for various causes",
    "BLACKLISTED_DESTINATION_ADDRESS": "the number is on the black list",
}

REQUEST_ERRORS: Final[Mapping[str, str]] = {
    "INVALID_SOURCE_ADDRESS": "the sender name is not valid",
    "MISSING_MESSAGE": "the message is missing",
    "MESSAGE_TOO_LONG": "the message is too long",
    "MISSING_DESTINATION_ADDRESS": "the number is missing",
    "INVALID_DESTINATION_ADDRESS": "the number is not valid",
}
"""Words with which a request is refused."""

_OF_VERIMOR: Final[Mapping[str, str]] = {
    "DOUBLE_SEND_ERROR": "the same message was sent twice",
    "NOT_ALLOWED_BY_IYS": "the number has refused consent (İYS)",
    "MISSING_TARIFF": "no tariff for this number",
    "ROUTE_NOT_AVAILABLE": "no route to this number",
    "NETWORK_NOTCOVERED": "the network is not covered",
    "INTERNATIONAL_DENIED": "messages to other countries are not allowed",
}

CODES: Final = CodeMeanings(
    status={
        Granularity.MESSAGE: {**_OF_VERIMOR, **_WORDS},
        Granularity.ORDER: {
            "-1": "failed: nothing was sent and no credit was taken",
            "0": "still running",
            "1": "finished",
        },
    },
    error={**_OF_VERIMOR, **REQUEST_ERRORS, **_WORDS},
)
