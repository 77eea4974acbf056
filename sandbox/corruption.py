"""Wrong answers: what a fault makes of a good one. The stand-ins say where their rows are, nothing else is shared."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from random import Random
from typing import Any

from ulak.sandbox.faults import CONTENT, Faults
from ulak.sandbox.http_types import Answer, Call, read_integer
from ulak.sandbox.standin import StandIn

PAGE = "<!DOCTYPE html><html><body><h1>Bakım çalışması</h1></body></html>".encode()
FIXED = {
    "http_500": Answer(500, b"Internal Server Error", "text/plain"),
    "http_502": Answer(502, PAGE, "text/html; charset=utf-8"),
    "http_503": Answer(503, b"Service Unavailable", "text/plain"),
    "http_503_later": Answer(503, b"Service Unavailable", "text/plain", {"Retry-After": "2"}),
    "http_429": Answer(429, b"Too Many Requests", "text/plain", {"Retry-After": "1"}),
    "http_429_bare": Answer(429, b"Too Many Requests", "text/plain"),
    "html_200": Answer(200, PAGE, "text/html; charset=utf-8"),
    "empty": Answer(200, b""),
    # Seven kilobytes that become seven megabytes, and a few hundred once they are read.
    "bomb": Answer(200, gzip.compress(b"[" + b"[]," * 2_500_000 + b"[]]"), headers={"Content-Encoding": "gzip"}),
}
CHARSETS = ("iso-8859-9", "windows-1254", "utf-16", "x-unknown")
TRAILS = (b"\x00\x00\x00", b"\n<!-- cache -->", b'{"response":{}}', b"\xff\xfe")
CLOCK_HOURS = (-5.0, -3.0, 2.0, 7.0)
COUNTERS = ("total", "delivered", "undelivered", "waiting", "count", "code", "status", "mesaj_boy", "sms_count")
XML_ITEM = re.compile(r"<item>.*?</item>\n?", re.DOTALL)

Rows = list[Any]


class Corrupter:
    """Makes wrong answers for one stand-in."""

    def __init__(self, standin: StandIn, faults: Faults) -> None:
        self.standin, self.faults = standin, faults

    def applies(self, call: Call, kind: str) -> bool:
        """Whether this request can suffer that fault at all."""
        standin = self.standin
        if kind in ("gzip_members", "gzip_trailing", "bomb"):
            return "gzip" in call.headers.get("accept-encoding", "")
        if kind not in CONTENT:
            return True
        fits = standin.rows_at(call) is not None and standin.identify(call)
        if kind in ("wrong_count", "inserted"):
            return fits and standin.is_list(call) and standin.has_count
        if kind == "moved":
            return fits and standin.is_list(call)
        if kind == "repeated_page":
            return fits and standin.another_page(call, Random(0)) is not None
        return fits

    def spoil(self, kind: str, call: Call) -> tuple[Answer, str | None]:
        """The answer, and the fault that it really has: None where nothing could be spoiled in it."""
        rng = self.faults.details(self.standin.name)
        if kind == "garbage":
            return Answer(200, b'{"\x00\xff\xfe' + rng.randbytes(64)), kind
        if kind == "unauthorized":
            return self.standin.unauthorized(call), kind
        if kind in FIXED:
            return FIXED[kind], kind
        if kind == "clock":
            seconds = rng.choice(CLOCK_HOURS) * 3600
            answer = self.standin.answer(replace(call, clock=seconds))
            return replace(
                answer, headers={**answer.headers, "date": formatdate(call.now + seconds, usegmt=True)}
            ), kind
        good = self.standin.answer(call)
        if kind in ("slow", "drip", "truncate", "reset", "hang"):
            return good, kind
        if kind in CONTENT:
            wrong = self._content(kind, call, good, rng) if good.status == 200 else None
        else:
            wrong = transported(kind, good, rng)
        return (good, None) if wrong is None else (wrong, kind)

    def _content(self, kind: str, call: Call, good: Answer, rng: Random) -> Answer | None:
        standin = self.standin
        if kind in ("foreign", "repeated_page"):
            other = standin.another(call, rng) if kind == "foreign" else standin.another_page(call, rng)
            answer = standin.content(other) if other else None
            return answer if answer and answer.status == 200 and answer.body != good.body else None
        if kind == "moved":
            return standin.content(replace(call, shift=rng.choice((-1, 1, 2))))
        if kind == "inserted":
            standin.hide_one(rng, call.now)
            return standin.content(call)
        if kind == "text_numbers":
            return reworded(good, write_as_text)
        if kind == "wrong_count":
            return reworded(good, lambda value: recount(value, rng))
        return self._rows(kind, call, good, rng)

    def _rows(self, kind: str, call: Call, good: Answer, rng: Random) -> Answer | None:
        """Rows missing or repeated. No wrong multiset of one subject is ever served a second time."""
        found = split(good, self.standin.rows_at(call) or ())
        if found is None:
            return None
        rows, join = found
        if kind == "null_rows":
            return join(None)
        if kind == "no_rows":
            return join([]) if rows else None
        for _ in range(8):
            wrong = repeated(rows, rng) if kind == "duplicated" else thinned(rows, rng)
            if wrong is None:
                return None
            mark = (self.standin.name, subject(call), *sorted(map(identity, wrong)))
            if mark not in self.faults.served:
                self.faults.served.add(mark)
                return join(wrong)
        return None


def transported(kind: str, good: Answer, rng: Random) -> Answer | None:
    """A good answer that suffered on the way."""
    body, half = good.body, len(good.body) // 2
    if kind == "trailing":
        return replace(good, body=body + rng.choice(TRAILS))
    if kind == "gzip_members":
        parts = gzip.compress(body[:half]) + gzip.compress(body[half:])
        return replace(good, body=parts, headers={**good.headers, "content-encoding": "gzip"})
    if kind == "gzip_trailing":
        packed = gzip.compress(body) + rng.choice((b"\x1f\x8b garbage", b"no member"))
        return replace(good, body=packed, headers={**good.headers, "content-encoding": "gzip"})
    if kind == "charset":
        kind_only = good.content_type.partition(";")[0]
        return replace(good, content_type=f"{kind_only}; charset={rng.choice(CHARSETS)}")
    return None


def split(good: Answer, where: tuple[str, ...]) -> tuple[Rows, Callable[[Rows | None], Answer]] | None:
    """The rows of an answer, and how to put others in their place."""
    if "xml" in good.content_type:
        text = good.body.decode()
        rows: Rows = XML_ITEM.findall(text)
        bare = XML_ITEM.sub("", text)
        mark = bare.find("<data>") + len("<data>") if "<data>" in bare else len(bare)
        return rows, lambda other: replace(good, body=(bare[:mark] + "".join(other or ()) + bare[mark:]).encode())
    value = read(good)
    if value is None:
        return None
    holder: dict[str, Any] = {"": value}
    path = ("", *where) if "response" not in value else ("", "response", *where)
    for name in path[:-1]:
        inner = holder.get(name)
        if not isinstance(inner, dict):
            return None
        holder = inner
    last = path[-1]
    rows = holder.get(last) if isinstance(holder.get(last), list) else [holder[last]]  # type: ignore[assignment]

    def join(other: Rows | None) -> Answer:
        top = value if last else other
        if last:
            holder[last] = other
        return replace(good, body=json.dumps(top, ensure_ascii=False, separators=(",", ":")).encode())

    return rows, join


def read(good: Answer) -> Any:
    """The JSON of an answer, or None."""
    try:
        return json.loads(good.body)
    except ValueError:
        return None


def repeated(rows: Rows, rng: Random) -> Rows | None:
    """The rows with one of them again: beside the others, a few times, or in the place of another."""
    fit = alone(rows)
    if not fit:
        return None
    one, wrong = rng.choice(fit), list(rows)
    if len(fit) > 1 and rng.random() < 0.5:
        other = rng.choice([row for row in fit if row is not one])
        wrong[[row is other for row in wrong].index(True)] = one
        return wrong
    for _ in range(rng.randint(1, 4)):
        wrong.insert(rng.randint(0, len(wrong)), one)
    return wrong


def thinned(rows: Rows, rng: Random) -> Rows | None:
    """The rows without some of them."""
    fit = alone(rows)
    if not fit:
        return None
    gone = rng.sample(fit, rng.randint(1, max(1, len(fit) // 2)))
    return [row for row in rows if not any(row is one for one in gone)]


def alone(rows: Rows) -> Rows:
    """The rows whose number occurs once: among equal ones it cannot be known which is missing or repeated."""
    numbers = Counter(row.get("number") for row in rows if isinstance(row, dict))
    return [row for row in rows if not isinstance(row, dict) or "number" not in row or numbers[row["number"]] == 1]


def identity(row: Any) -> str:
    """What a row is about: the number of a recipient, else its whole content."""
    return str(row["number"]) if isinstance(row, dict) and "number" in row else str(row)


def subject(call: Call) -> str:
    """What was asked, without the login."""
    asked = call.dig("request", "order") or call.dig("request", "filter") or call.json
    return f"{call.path.rpartition('/')[2]} {json.dumps(asked, sort_keys=True)}"


def reworded(good: Answer, change: Callable[[Any], Any]) -> Answer | None:
    """The answer with its JSON changed."""
    value = read(good)
    if value is None:
        return None
    return replace(good, body=json.dumps(change(value), ensure_ascii=False, separators=(",", ":")).encode())


def write_as_text(value: Any) -> Any:
    """Counters and codes as text."""
    if isinstance(value, dict):
        return {
            name: str(one) if name in COUNTERS and type(one) is int else write_as_text(one)
            for name, one in value.items()
        }
    return [write_as_text(one) for one in value] if isinstance(value, list) else value


def recount(value: Any, rng: Random) -> Any:
    """The list with a `count` that is not that of its range."""
    inner = value["response"]
    inner["count"] = max(0, (read_integer(inner.get("count")) or 0) + rng.choice((-31, -2, -1, 1, 2, 31)))
    return value
