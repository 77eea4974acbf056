"""Signatures of Standard Webhooks 1.0, symmetric: https://github.com/standard-webhooks/standard-webhooks.

The receiver verifies with any of its libraries; a test has the vector that they publish.
"""

import base64
import binascii
import hmac
from typing import Final

PREFIX: Final = "whsec_"
MIN_BYTES: Final = 24
MAX_BYTES: Final = 64
FORM: Final = (
    "whsec_ and 24 to 64 bytes in base64, one secret a line while it is rotated, such as"
    " `printf whsec_; openssl rand -base64 32` prints"
)


class SigningError(ValueError):
    """A text holds no secret to sign with."""


def read_secrets(text: str) -> tuple[bytes, ...]:
    """The secrets of a file, one a line; `SigningError` where a line is none. The text is not repeated."""
    found = tuple(_secret(line.strip()) for line in text.splitlines() if line.strip())
    if not found:
        raise SigningError
    return found


def _secret(line: str) -> bytes:
    try:
        secret = base64.b64decode(line.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise SigningError from None
    if not line.startswith(PREFIX) or not MIN_BYTES <= len(secret) <= MAX_BYTES:
        raise SigningError
    return secret


def signed_headers(secrets: tuple[bytes, ...], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a message; one signature for each secret. `timestamp`: of this attempt, Unix seconds."""
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, content, "sha256")).decode() for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
