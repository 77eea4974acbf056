"""What stands in the place of a status at Diyalog, which has no status codes, for people."""

from typing import Final

from models.vocabulary import Granularity
from providers.adapter import CodeMeanings

CODES: Final = CodeMeanings(
    status={
        Granularity.CONVERSATION: {"sendMessageCount": "the number of messages sent on that day"},
        Granularity.MESSAGE: {
            "delivery": "delivered to the user",
            "reads": "read by the user",
        },
    }
)
