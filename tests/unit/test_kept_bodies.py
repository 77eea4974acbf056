"""What is kept of a body that was not understood: small, and readable again as if it had come so."""

import random

from ulak.models.report import Unreadable
from ulak.providers.adapter import Answer, Callback
from ulak.tasks.steps.kept_bodies import MAX_UNREADABLE, body_headers, to_keep, unpacked

LARGE = b'{"list":[' + b'{"receiver":"905301234567"},' * 20_000 + b"{}]}"


def test_a_large_body_is_kept_packed_and_reads_again_whole() -> None:
    """Whether a provider pushed it or answered with it; the charset that it declared stays beside it."""
    for came in (
        Callback(tail="", body=LARGE, headers={"content-type": "text/plain; charset=utf-8"}),
        Answer(status=200, body=LARGE, headers={"content-type": "text/plain; charset=utf-8"}),
    ):
        [kept], context = to_keep((Unreadable(reason="r", raw=LARGE),), came)
        assert len(kept.raw) < len(LARGE) / 50
        again = unpacked(Callback(tail="", body=kept.raw, headers=body_headers(context)))
        assert (again.body, again.headers) == (LARGE, {"content-type": "text/plain; charset=utf-8"})


def test_very_many_items_are_kept_as_the_body_they_stand_in() -> None:
    """Up to a thousand are kept one by one."""
    came = Callback(tail="", body=b"[1,2,3]")
    items = tuple(Unreadable(reason="An item is strange.", raw=b"%d" % n) for n in range(MAX_UNREADABLE + 1))
    assert to_keep(items[:-1], came) == (items[:-1], {})
    [kept], _ = to_keep(items, came)
    assert (kept.raw, kept.reason) == (
        b"[1,2,3]",
        "1001 parts of it could not be read, the first of them: An item is strange.",
    )


def test_what_came_packed_and_could_not_be_unpacked_is_kept_as_it_is() -> None:
    """Its own coding stands beside it already."""
    raw = random.Random(7).randbytes(100_000)
    came = Callback(tail="", body=raw, headers={"content-encoding": "br"})
    assert to_keep((Unreadable(reason="r", raw=raw),), came) == (
        (Unreadable(reason="r", raw=raw),),
        {"headers": {"content-encoding": "br"}},
    )


def test_of_an_answer_that_does_not_pack_the_beginning_is_kept_and_of_a_push_all() -> None:
    """An answer is asked for again, a push perhaps never comes again."""
    noise = random.Random(7).randbytes(3_000_000)
    item = (Unreadable(reason="Not JSON.", raw=noise),)
    [kept], context = to_keep(item, Answer(status=200, body=noise))
    assert (kept.raw, kept.reason, context) == (noise[: 1024 * 1024], "Not JSON. Only its beginning is kept.", {})
    [pushed], context = to_keep(item, Callback(tail="", body=noise))
    assert unpacked(Callback(tail="", body=pushed.raw, headers=body_headers(context))).body == noise
