"""The receivers: a webhook, a Slack-compatible one, a mail server. Made from the settings; each sends one message once.

Addresses and secrets are read from their files at every attempt, so a new one needs no restart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from ulak.api.notify.mail import FORM as MAIL_FORM
from ulak.api.notify.mail import MailError, hand_in, mail_of, read_server
from ulak.api.notify.message_texts import Message
from ulak.api.notify.signing import FORM as SECRET_FORM
from ulak.api.notify.signing import SigningError, read_secrets, signed_headers
from ulak.api.outbound import Outbound, OutboundError
from ulak.core import clock
from ulak.core.addresses import is_loopback
from ulak.core.credentials import CredentialError, resolve_reference
from ulak.core.redaction import register_secret
from ulak.core.settings import Settings, SettingsError

WEBHOOK: Final = "webhook"
SLACK: Final = "slack"
MAIL: Final = "mail"
_SUCCESS: Final = range(200, 300)
_URL_FORM: Final = "one address, https (http to this host only)"


class NotTakenError(Exception):
    """The receiver did not take a message; the text is a part of a sentence, without an address or a secret."""


class Receiver(Protocol):
    """One receiver."""

    @property
    def name(self) -> str:
        """Among the three."""

    def send(self, message: Message) -> str | None:
        """Make one attempt; `NotTakenError` if the receiver did not confirm the message.

        Returns a warning although the message was accepted, worded like that error; None otherwise.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """JSON, signed according to Standard Webhooks."""

    outbound: Outbound
    url_file: Path
    secret_file: Path
    name: str = WEBHOOK

    def send(self, message: Message) -> None:
        """POST it; any 2xx is an acknowledgement."""
        url, secrets = _url(self.url_file), _signing_secrets(self.secret_file)
        body = message.body()
        headers = signed_headers(secrets, message.id, int(clock.now().timestamp()), body)
        _post(self.outbound, url, body, headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slack:
    """`{"text": …}`, which Slack, Mattermost, Rocket.Chat and others take. Its address is a secret."""

    outbound: Outbound
    url_file: Path
    name: str = SLACK

    def send(self, message: Message) -> None:
        """POST it; any 2xx is an acknowledgement. The id is in a header, which Slack itself does not read."""
        # https://docs.slack.dev/messaging/formatting-message-text: these three are all that must be escaped.
        text = f"*{message.subject()}*\n{message.text()}"
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        _post(self.outbound, _url(self.url_file), _json({"text": text}), {"webhook-id": message.id})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail to one or more people."""

    url_file: Path
    sender: str
    to: tuple[str, ...]
    ca_file: Path | None = None
    name: str = MAIL

    def send(self, message: Message) -> str | None:
        """Hand it in; it is acknowledged once the server has accepted or refused for good every recipient.

        It must have accepted one.
        """
        mail = mail_of(
            message_id=message.id,
            sender=self.sender,
            to=self.to,
            subject=message.subject(),
            text=message.text(),
            date=message.created_at,
        )
        try:
            server = read_server(resolve_reference(f"file:{self.url_file}"))
        except (CredentialError, ValueError) as error:
            raise NotTakenError(_unusable(error)) from None
        if server.password is not None:
            register_secret(server.password)
        try:
            return hand_in(server, mail, ca_file=self.ca_file)
        except (MailError, CredentialError) as error:
            raise NotTakenError(str(error)) from None


@dataclass(slots=True)
class _Check:
    """Collects what is wrong with the settings."""

    sentences: list[str] = field(default_factory=list)

    def read(self, variable: str, path: Path, right: str, read: Callable[[str], object]) -> None:
        """The file must hold what `read` takes."""
        try:
            read(resolve_reference(f"file:{path}"))
        except CredentialError as error:
            self.sentences.append(f"{variable}: {error}")
        except ValueError:
            self.sentences.append(f"{variable} leads to a file with the wrong content: write {right}")


def receivers_for(settings: Settings) -> list[Receiver]:
    """The receivers that the settings name; `SettingsError` that names everything wrong with them."""
    found, faults = find_receivers(settings)
    if faults:
        raise SettingsError("; ".join(faults))
    return found


def find_receivers(settings: Settings) -> tuple[list[Receiver], list[str]]:
    """The receivers that the settings make, and a sentence for each thing that is wrong.

    One whose file holds the wrong content is among them: it reads the file at each attempt.
    """
    check = _Check()
    found = list(_http_receivers(settings, check))
    mail = _mail_receiver(settings, check)
    return [*found, *([] if mail is None else [mail])], check.sentences


def _http_receivers(settings: Settings, check: _Check) -> Sequence[Receiver]:
    url_file, secret_file = settings.notify_webhook_url_file, settings.notify_webhook_secret_file
    slack_file = settings.notify_slack_url_file
    if (url_file is None) != (secret_file is None):
        check.sentences.append("ULAK_NOTIFY_WEBHOOK_URL_FILE and ULAK_NOTIFY_WEBHOOK_SECRET_FILE belong together")
    if url_file is not None:
        check.read("ULAK_NOTIFY_WEBHOOK_URL_FILE", url_file, _URL_FORM, check_url)
    if secret_file is not None:
        check.read("ULAK_NOTIFY_WEBHOOK_SECRET_FILE", secret_file, SECRET_FORM, read_secrets)
    if slack_file is not None:
        check.read("ULAK_NOTIFY_SLACK_URL_FILE", slack_file, _URL_FORM, check_url)
    if url_file is None and slack_file is None:
        return []
    try:
        outbound = Outbound(ca_file=settings.notify_ca_file)
    except CredentialError as error:
        check.sentences.append(f"ULAK_NOTIFY_CA_FILE: {error}")
        return []
    found: list[Receiver] = []
    if url_file is not None and secret_file is not None:
        found.append(Webhook(outbound=outbound, url_file=url_file, secret_file=secret_file))
    if slack_file is not None:
        found.append(Slack(outbound=outbound, url_file=slack_file))
    return found


def _mail_receiver(settings: Settings, check: _Check) -> Receiver | None:
    url_file, sender, to = settings.notify_smtp_url_file, settings.notify_mail_from, settings.notify_mail_to
    if url_file is None and sender is None and to is None:
        return None
    if url_file is None or sender is None or to is None:
        check.sentences.append(
            "ULAK_NOTIFY_SMTP_URL_FILE, ULAK_NOTIFY_MAIL_FROM and ULAK_NOTIFY_MAIL_TO belong together"
        )
        return None
    check.read("ULAK_NOTIFY_SMTP_URL_FILE", url_file, MAIL_FORM, read_server)
    return Mail(url_file=url_file, sender=sender, to=tuple(to.split(",")), ca_file=settings.notify_ca_file)


def check_url(url: str) -> str:
    """The same; ValueError, without it, where no secret may travel to it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        raise ValueError(_URL_FORM) from None
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    is_plain = url.isascii() and url.isprintable() and " " not in url and port != 0
    if not is_safe or not host or parts.username or parts.password or not is_plain:
        raise ValueError(_URL_FORM)
    return url


def _url(path: Path) -> str:
    try:
        return check_url(resolve_reference(f"file:{path}"))
    except (CredentialError, ValueError) as error:
        raise NotTakenError(_unusable(error)) from None


def _signing_secrets(path: Path) -> tuple[bytes, ...]:
    try:
        text = resolve_reference(f"file:{path}")
        for line in text.split():
            register_secret(line)
        return read_secrets(text)
    except (CredentialError, SigningError) as error:
        raise NotTakenError(_unusable(error)) from None


def _unusable(error: Exception) -> str:
    return str(error) if isinstance(error, CredentialError) else "has a file with the wrong content"


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _post(outbound: Outbound, url: str, body: bytes, headers: dict[str, str]) -> None:
    try:
        reply = outbound.send("POST", url, headers={"content-type": "application/json", **headers}, body=body)
    except OutboundError as error:
        raise NotTakenError(str(error)) from None
    if reply.status not in _SUCCESS:
        raise NotTakenError(f"answered with status {reply.status}")
