"""A provider that answers from memory: pages of Organik rows, made before the first request, over bare asyncio.

    python canned_pages.py <rows per page> <pages> [<rows per page> <pages> …]

prints its port. `POST` with Organik's body names a transaction, which is one page of rows; to a client that counts
pages, `GET …/<rows per page>?page=n` gives the same. It is a process of its own and does nothing but look up bytes.
"""

import asyncio
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OPEN_ROWS = 3
"""Rows of each page that are not final yet, so that the transaction stays worth asking for."""
_NAMED = re.compile(rb'"transaction_ids": ?\["([0-9]+)"\]')
_COUNTED = re.compile(rb"GET /[^ ]*/([0-9]+)\?page=([0-9]+) ")
_LENGTH = re.compile(rb"content-length: ?([0-9]+)", re.IGNORECASE)


def transaction_of(size: int, page: int) -> str:
    """The transaction whose rows are page `page` (from 0) of pages with `size` rows."""
    return str(size * 100_000 + page)


def rows_of(size: int, page: int) -> Iterator[dict[str, object]]:
    """The rows of a page, as Organik's documents show them."""
    transaction = transaction_of(size, page)
    for place in range(size):
        number = int(transaction) * 1000 + place
        sent = NOON + timedelta(seconds=page)
        is_open = place < OPEN_ROWS
        yield {
            "gsm": f"9053{number * 7919 % 10**8:08}",
            "transaction_id": transaction,
            "gsm_track_id": f"{number * 104_729 % 10**9:09}{number}",
            "delivery_track_id": f"order-{number}",
            "create_date": f"{sent:%Y-%m-%d %H:%M:%S}",
            "start_date": f"{sent:%Y-%m-%d %H:%M:%S}",
            "finish_date": None if is_open else f"{sent + timedelta(seconds=7):%Y-%m-%d %H:%M:%S}",
            "status": 1 if is_open else 2,
            "sms_count": 1,
            "credit_amount": "1",
            "is_foreign_gsm": 0,
            "errorcode": 0,
        }


def answer_of(size: int, page: int) -> bytes:
    """The whole HTTP answer with a page."""
    body = msgspec.json.encode({"response": {"result": True, "data": list(rows_of(size, page))}})
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Canned(asyncio.Protocol):
    """One connection that stays open."""

    answers: dict[bytes, bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._heard = b""

    def data_received(self, data: bytes) -> None:
        """Answer once the request is whole; clients do not send the next one before."""
        self._heard += data
        head, mark, body = self._heard.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not mark or (length is not None and len(body) < int(length[1])):
            return
        counted, named = _COUNTED.match(head), _NAMED.search(body)
        if counted:
            key = transaction_of(int(counted[1]), int(counted[2])).encode()
        else:
            assert named is not None, self._heard
            key = named[1]
        self._heard = b""
        self._transport.write(self.answers[key])


async def serve(sizes: list[tuple[int, int]]) -> None:
    """Answer until the process is ended."""
    Canned.answers = {
        transaction_of(size, page).encode(): answer_of(size, page) for size, pages in sizes for page in range(pages)
    }
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(serve(list(zip(numbers[::2], numbers[1::2], strict=True))))
