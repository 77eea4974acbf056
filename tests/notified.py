"""Receivers of notifications over real sockets on loopback: a webhook, and a mail server of a few lines."""

import json
import socketserver
import ssl
import threading
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

SECRET = "whsec_" + b64encode(b"canary-of-the-webhook-0123456789").decode()
PASSWORD = "canary-pass"


@dataclass(frozen=True)
class Taken:
    """One request, or one mail."""

    headers: dict[str, str]
    """Lower-case names."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Hook:
    """`with Hook() as hook:`; it keeps what it takes, and answers with `status`."""

    status: int = 204
    reply: bytes = b""
    taken: list[Taken] = field(default_factory=list)
    """With a status of success."""
    refused: list[Taken] = field(default_factory=list)

    def __enter__(self) -> Self:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept = hook.taken if hook.status < 300 else hook.refused
                kept.append(Taken({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(hook.status)
                self.send_header("Content-Length", str(len(hook.reply)))
                if 300 <= hook.status < 400:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()
                self.wfile.write(hook.reply)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/canary-path"

    @property
    def items(self) -> list[tuple[str, str]]:
        """(state, key) of everything that it was told, in order."""
        return [(item["state"], item["key"]) for taken in self.taken for item in taken.json["data"]["problems"]]


class MailServer(socketserver.ThreadingTCPServer):
    """Speaks enough SMTP (RFC 5321) to take a mail, with STARTTLS and AUTH PLAIN where it is told to."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        *,
        context: ssl.SSLContext | None = None,
        login: str | None = None,
        is_tls: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        """`is_tls`: from the first byte on; otherwise a context means STARTTLS."""
        self.context = context
        self.is_tls = is_tls
        self.login = login
        self.refuses = False
        self.refused_recipients: set[str] = set()
        self.refusal = 550
        self.farewell = 221
        self.greets_for_ever = False
        self.mails: list[EmailMessage] = []
        self.was_encrypted: list[bool] = []
        super().__init__((host, 0), _Dialogue)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class _Dialogue(socketserver.StreamRequestHandler):
    server: MailServer

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")
        self.wfile.flush()

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def encrypt(self) -> bool:
        """Whether TLS came about."""
        assert self.server.context is not None
        try:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        except OSError:
            return False
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb")
        return True

    def handle(self) -> None:  # noqa: C901, PLR0912 - a dialogue, word by word
        encrypted, known, accepted = self.server.is_tls, False, 0
        if self.server.is_tls and not self.encrypt():
            return
        while self.server.greets_for_ever:
            try:
                self.say("220-canary")
            except OSError:
                return
            time.sleep(0.05)
        self.say("220 test ESMTP")
        while line := self.rfile.readline().decode().strip():
            word = line.split(" ")[0].upper()
            if word == "EHLO":
                offers = ["test"]
                offers += ["STARTTLS"] if self.server.context is not None and not encrypted else []
                offers += ["AUTH PLAIN"] if self.server.login is not None else []
                for place, offer in enumerate(offers, 1):
                    self.say(f"250{' ' if place == len(offers) else '-'}{offer}")
            elif word == "STARTTLS":
                self.say("220 go on")
                if not self.encrypt():
                    return
                encrypted = True
            elif word == "AUTH":
                known = b64decode(line.split(" ")[2]).decode() == self.server.login
                self.say("235 welcome" if known else "535 canary-of-the-reply")
            elif word == "RCPT":
                is_fine = line[8:].strip("<>") not in self.server.refused_recipients
                accepted += is_fine
                self.say("250 ok" if is_fine else f"{self.server.refusal} canary-of-the-reply")
            elif word == "DATA" and (self.server.refuses or (self.server.login is not None and not known)):
                self.say("451 canary-of-the-reply")
            elif word == "DATA":
                self.say("354 go on")
                body = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    body += part.removeprefix(b".") if part.startswith(b"..") else part
                mail = message_from_bytes(body, policy=policy.default)
                assert isinstance(mail, EmailMessage)
                self.server.mails.append(mail)
                self.server.was_encrypted.append(encrypted)
                self.say("250 taken")
            elif word == "QUIT":
                self.say(f"{self.server.farewell} canary-of-the-reply")
                return
            else:
                self.say("250 ok")


def written(folder: Path, name: str, text: str) -> str:
    """The path of a file of this name that holds the text."""
    path = folder / name
    path.write_text(text + "\n", encoding="utf-8")
    return str(path)
