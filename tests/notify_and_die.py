"""An API process that dies between a receiver's response and its commit: `python notify_and_die.py DATABASE_URL`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from task_api import runtime_on

from ulak.api.notify.message_texts import Message
from ulak.api.notify.notifier import notifier_for
from ulak.api.notify.receivers import Receiver, receivers_for
from ulak.core.settings import load_settings
from ulak.models.database import make_engine


class Dying:
    """A receiver that takes the message, and nobody will know."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.name = receiver.name

    def send(self, message: Message) -> None:
        """Send it, and end the process."""
        self._receiver.send(message)
        os._exit(9)


settings = load_settings()
receivers = [Dying(each) for each in receivers_for(settings)]
notifier = notifier_for(settings, runtime_on(make_engine(sys.argv[1])), receivers)
notifier.step()
notifier.wait()
