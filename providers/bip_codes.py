"""What BiP's codes mean, for people. Sources: bip.com, pages user-actions and error-handling.

The same number stands in notices (`reporttype`) and in reports of sends (`resultcode`); only 0 and 1 are in both.
"""

from collections.abc import Mapping
from typing import Final

from models.vocabulary import Granularity
from providers.adapter import CodeMeanings

_RESULTS: Final[Mapping[str, str]] = {
    "1": "general error",
    "300": "service not active",
    "301": "the person is no BiP user",
    "302": "not authorised for this user",
    "303": "user file missing",
    "304": "user file corrupt",
    "305": "invalid record in the user file",
    "306": "plain numbers may not be used",
    "307": "not authorised to send",
    "308": "sending limit exceeded",
    "309": "synchronous sending failed",
    "310": "duplicate transaction id",
    "311": "method not allowed",
    "312": "sending quota reached",
}

CODES: Final = CodeMeanings(
    status={
        Granularity.MESSAGE: {
            **_RESULTS,
            "0": "in a report of a send: accepted; in a notice: delivered",
            "1": "in a report of a send: general error; in a notice: read",
        },
        Granularity.ORDER: _RESULTS,
    },
    error=_RESULTS,
)
