"""Messages by SMTP, with the standard library: TLS verified, every step within a deadline, errors in words of ours."""

import smtplib
import socket
import ssl
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from threading import Timer
from typing import Final
from urllib.parse import unquote, urlsplit

from ulak.core.settings import is_loopback
from ulak.providers.way_out import trusting

STEP_SECONDS: Final = 10.0
ALL_SECONDS: Final = 60.0
"""From the connection to the last reply; less than the lease of an attempt."""
FORM: Final = "smtps://user:password@host:465, or smtp://user:password@host:587 (STARTTLS), percent-encoded"
_PORTS: Final = {"smtps": 465, "smtp": 587}


class MailError(Exception):
    """The mail was not taken; the text is a part of a sentence without an address or a reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where mail is handed in."""

    host: str
    port: int
    is_tls: bool
    """From the first byte on; otherwise by STARTTLS."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def read_server(url: str) -> Server:
    """The server of an address in `FORM`; ValueError, without the address, where it is none."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise ValueError(FORM) from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(FORM)
    return Server(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        is_tls=parts.scheme == "smtps",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


def mail_of(
    *, message_id: str, sender: str, to: tuple[str, ...], subject: str, text: str, date: datetime
) -> EmailMessage:
    """The mail. Its `Message-ID` is the same in every attempt."""
    mail = EmailMessage()
    mail["Message-ID"] = f"<{message_id}@{sender.rpartition('@')[2]}>"
    mail["Date"] = format_datetime(date)
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Subject"] = subject
    # RFC 3834: no vacation notices in reply.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text)
    return mail


def hand_in(server: Server, mail: EmailMessage, *, ca_file: Path | None = None) -> None:
    """Give the mail to the server; `MailError` where not every recipient was accepted.

    Without TLS only to this host. Where some recipients were accepted, the next attempt reaches them again, under the
    same `Message-ID`.
    """
    context = ssl.create_default_context() if ca_file is None else trusting(str(ca_file))
    try:
        with _connected(server, context) as session, _Deadline(session):
            _protect(session, server, context)
            if server.user is not None:
                session.login(server.user, server.password or "")
            refused = session.send_message(mail)
    except (smtplib.SMTPException, OSError) as error:
        raise MailError(_why(error)) from None
    if refused:
        raise MailError(f"refused {len(refused)} of the recipients")


def _connected(server: Server, context: ssl.SSLContext) -> smtplib.SMTP:
    if server.is_tls:
        return smtplib.SMTP_SSL(server.host, server.port, timeout=STEP_SECONDS, context=context)
    return smtplib.SMTP(server.host, server.port, timeout=STEP_SECONDS)


def _protect(session: smtplib.SMTP, server: Server, context: ssl.SSLContext) -> None:
    """TLS before anything is said."""
    if server.is_tls:
        return
    session.ehlo_or_helo_if_needed()
    if session.has_extn("starttls"):
        session.starttls(context=context)
    elif not is_loopback(server.host):
        raise smtplib.SMTPNotSupportedError


class _Deadline:
    """Ends the connection when all took too long: a server may answer each step late, byte by byte."""

    def __init__(self, session: smtplib.SMTP) -> None:
        self._session = session
        self._timer = Timer(ALL_SECONDS, self._end)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        if self._session.sock is not None:
            self._session.sock.shutdown(socket.SHUT_RDWR)


def _why(error: Exception) -> str:
    """Words of our own: those of the library hold addresses and what the server said."""
    match error:
        case ssl.SSLCertVerificationError():
            why = "shows a certificate that is not trusted"
        case smtplib.SMTPNotSupportedError():
            why = "offers no TLS, without which nothing is sent to another host, or no log-in"
        case smtplib.SMTPResponseException():
            why = f"refused the mail or the log-in with code {error.smtp_code}"
        case smtplib.SMTPRecipientsRefused():
            why = "refused every recipient"
        case TimeoutError():
            why = "did not answer in time"
        case smtplib.SMTPException():
            why = f"broke off ({type(error).__name__})"
        case _:
            why = f"cannot be reached ({type(error).__name__})"
    return why
