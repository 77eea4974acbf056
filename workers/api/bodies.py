"""Reading request bodies with a cap, before anything is believed of them."""

from fastapi import Request

BODY_CAP_BYTES = 8 * 1024 * 1024
"""A BiP report of tens of thousands of receivers fits in; a flood does not."""


class BodyTooLargeError(Exception):
    """The body is larger than the cap; the text says what the cap is."""


async def read_body(request: Request, *, cap: int = BODY_CAP_BYTES) -> bytes:
    """The whole body, refused as soon as more than `cap` bytes have come, whatever Content-Length says."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > cap:
            raise BodyTooLargeError(f"The body is larger than {cap} bytes.")
        parts.append(part)
    return b"".join(parts)
