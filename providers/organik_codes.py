"""What Organik's codes mean, for people.

Sources: organikapi.com/documents/reports_detailed (codes of reports) and the provider's public ERROR_CODES and SMS_*
pages (refusals and errors of whole replies). Of some errorcodes the documents name only the sort of fault.
"""

from collections.abc import Mapping
from typing import Final

from ulak.models.vocabulary import Granularity
from ulak.providers.adapter import CodeMeanings

_HANDSET: Final = "fault of the handset"
_NETWORK: Final = "fault in the operator's network"
_UNREACHABLE: Final = "subscriber not reachable"

CODES: Final = CodeMeanings(
    status={
        Granularity.MESSAGE: {
            "0": "not sent yet",
            "1": "handed over to the operator",
            "2": "delivered to the recipient",
            "3": "wrong number",
            "4": "timed out",
            "invalid": "refused in the response to the send request",
        },
        Granularity.ORDER: {"invalid": "refused in the response to the send request"},
    },
    error={
        "1": "invalid number",
        "2": "the operator's number is wrong",
        "3": _UNREACHABLE,
        "4": "passive number",
        "5": "the number does not accept campaign messages",
        "6": "the content does not meet the operator's criteria",
        "7": _UNREACHABLE,
        "8": "the number cannot receive SMS",
        **dict.fromkeys(("9", "12", "14", "16", "17"), _HANDSET),
        **dict.fromkeys(("10", "11", "13", "15", "18", "19", "20", "21"), _NETWORK),
        "22": "the operator could not confirm the operation",
        "23": "the number has refused consent (İYS)",
        "88": "test message",
        "99": "wrong number",
        "102": "no valid number was given",
        "103": "insufficient balance",
        "105": "the message has no text",
        "106": "the message is too long",
        "108": "insufficient balance",
        "109": "the number is on the black list",
        "110": "wrong number",
        "111": "the number is too short or too long",
        "112": "the message is not in the agreed form",
    },
)

REPLY_ERRORS: Final[Mapping[int, str]] = {
    1: "Organik reports an unknown error.",
    84: "Organik reports a fault of its database.",
    85: "Organik reports a fault of its database.",
    88: "Organik does not support this function for the account.",
    89: "Organik does not know the user, or the user is inactive.",
    90: "Organik refuses the key: it must have 32 characters.",
    91: "Organik does not support the response format.",
    92: "Organik does not support the request format.",
    93: "Organik reports too many requests at the same time.",
    94: "Organik is temporarily unavailable.",
    95: "Organik reports a fault of its server.",
    96: "Organik refuses the parameters of the request.",
    97: "Organik refuses the form of the request.",
    98: "Organik does not accept requests from this server's address.",
    99: "Organik refuses the key, or its user may not use this function.",
}
"""`error` of a whole reply, as sentences. Not the errorcodes of messages: 88 and 99 mean something else there."""
