"""Messages by SMTP, with the standard library: TLS verified, every step within a deadline, errors in words of ours."""

import smtplib
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from threading import Timer
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from ulak.core.addresses import is_loopback
from ulak.providers.egress import trusting

STEP_SECONDS: Final = 10.0
ALL_SECONDS: Final = 60.0
"""From looking up the host to the last reply; less than the lease of an attempt."""
FORM: Final = "smtps://user:password@host:465, or smtp://user:password@host:587 (STARTTLS), ASCII, percent-encoded"
_PORTS: Final = {"smtps": 465, "smtp": 587}
_FOR_GOOD: Final = 500
"""RFC 5321, 4.2.1: codes from here on are permanent."""


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
    """The server of an address in `FORM`; ValueError, without the address, where it is none.

    User and password are ASCII: SMTP's log-in as the standard library speaks it knows nothing else.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        raise ValueError(FORM) from None
    user, password = (unquote(text) if text else None for text in (parts.username, parts.password))
    is_plain = all(text is None or (text.isascii() and text.isprintable()) for text in (user, password))
    has_more = parts.path not in {"", "/"} or parts.query or parts.fragment
    if parts.scheme not in _PORTS or not host or not host.isprintable() or " " in host or has_more or not is_plain:
        raise ValueError(FORM)
    return Server(
        host=host, port=port or _PORTS[parts.scheme], is_tls=parts.scheme == "smtps", user=user, password=password
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


def hand_in(server: Server, mail: EmailMessage, *, ca_file: Path | None = None) -> str | None:
    """Give the mail to the server; what is to be known of recipients that it refused for good, None where of none.

    `MailError` where it accepted no recipient, or refused some only for now: the next attempt then reaches the others
    again, under the same `Message-ID`. Without TLS only to this host.
    """
    context = ssl.create_default_context() if ca_file is None else trusting(str(ca_file))
    with _Deadline() as deadline:
        try:
            session = _Session(server, context, deadline)
            try:
                _protect(session, server, context)
                if server.user is not None:
                    session.login(server.user, server.password or "")
                refused = session.send_message(mail)
            finally:
                _leave(session)
        except (smtplib.SMTPException, OSError) as error:
            raise MailError(_why(TimeoutError() if deadline.is_over else error)) from None
    if not refused:
        return None
    why = f"refused {len(refused)} of the recipients"
    if any(code < _FOR_GOOD for code, _ in refused.values()):
        raise MailError(why)
    return f"{why} for good"


class _Deadline:
    """Ends the connection when all took too long: a server may answer each step late, byte by byte."""

    def __init__(self) -> None:
        self.is_over = False
        self._connection: socket.socket | None = None
        self._timer = Timer(ALL_SECONDS, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._connection is not None:
            self._connection.close()

    def watch(self, connection: socket.socket) -> None:
        """It ends with the deadline, whatever is wrapped around it meanwhile."""
        self._connection = connection.dup()
        if self.is_over:
            raise TimeoutError

    def _end(self) -> None:
        self.is_over = True
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)


class _Session(smtplib.SMTP):
    """Connects in time, and with TLS from the first byte on where the server wants it so."""

    def __init__(self, server: Server, context: ssl.SSLContext, deadline: _Deadline) -> None:
        self._server, self._context, self._deadline = server, context, deadline
        super().__init__(server.host, server.port, timeout=STEP_SECONDS)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """What `smtplib` connects with: `SMTP_SSL` replaces it in the same way."""
        connection = socket.create_connection((host, port), timeout)
        try:
            self._deadline.watch(connection)
            if self._server.is_tls:
                return self._context.wrap_socket(connection, server_hostname=self._server.host)
        except BaseException:
            connection.close()
            raise
        return connection


def _protect(session: smtplib.SMTP, server: Server, context: ssl.SSLContext) -> None:
    """TLS from the first byte."""
    if server.is_tls:
        return
    session.ehlo_or_helo_if_needed()
    if session.has_extn("starttls"):
        session.starttls(context=context)
    elif not is_loopback(server.host):
        raise smtplib.SMTPNotSupportedError


def _leave(session: smtplib.SMTP) -> None:
    """The response to QUIT does not affect the accepted message."""
    with suppress(smtplib.SMTPException, OSError):
        session.quit()
    session.close()


def _why(error: Exception) -> str:
    """Our own wording: the library's messages contain addresses and the server's response."""
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
