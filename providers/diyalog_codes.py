"""Diyalog has no status codes: what its rows hold in their place, explained for people."""

from typing import Final

from ulak.models.vocabulary import Granularity
from ulak.providers.adapter import CodeMeanings

CODES: Final = CodeMeanings(
    status={
        Granularity.CONVERSATION: {"sendMessageCount": "the number of messages sent on that day"},
        Granularity.MESSAGE: {
            "delivery": "delivered to the user",
            "reads": "read by the user",
        },
    }
)
