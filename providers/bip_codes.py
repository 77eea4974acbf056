"""What BiP's codes mean, for people. Sources: bip.com, pages user-actions and error-handling.

Notices (`reporttype`) and reports of sends (`resultcode`) share the numbers 0 and 1; the status distinguishes them.
"""

from collections.abc import Mapping
from typing import Final

from ulak.models.vocabulary import Granularity, Status
from ulak.providers.adapter import CodeMeanings

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
        Granularity.MESSAGE: {**_RESULTS, "0": "accepted"},
        Granularity.ORDER: _RESULTS,
    },
    # An account option defines which number means which.
    in_rows_of={status: dict.fromkeys("01", status.value) for status in (Status.DELIVERED, Status.READ)},
    error=_RESULTS,
)
