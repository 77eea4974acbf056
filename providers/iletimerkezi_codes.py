"""What iletimerkezi's status codes mean, in its own documents' words ("Rapor", "Paket özeti"), for people."""

from typing import Final

from ulak.models.vocabulary import Granularity
from ulak.providers.adapter import CodeMeanings

CODES: Final = CodeMeanings(
    status={
        Granularity.ORDER: {
            "113": "sending in progress",
            "114": "sending completed",
            "115": "the order could not be sent",
            "456": "scheduled, the sending time has not come yet",
        },
        Granularity.MESSAGE: {
            "110": "message is being sent",
            "111": "message delivered",
            "112": "message not delivered, no cause is given",
        },
    }
)
