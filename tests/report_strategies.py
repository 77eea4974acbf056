"""Statements of providers, for laws: few times, words and values, so that ties and repetitions are frequent."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Reason, Source, Status

DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# Within the day, a day later, and beyond the 48 hours after which a conversation settles.
moments = st.sampled_from([NOON + timedelta(hours=hours) for hours in (0, 1, 24, 72, 73, 96)])
_ONE_KEY = st.just("k")
_maybe_moment = st.none() | moments
_maybe_text = st.none() | st.sampled_from(["a", "b"])
_maybe_count = st.none() | st.integers(0, 3)

STATUSES: dict[Granularity, list[Status]] = {
    Granularity.MESSAGE: [status for status in Status if status != Status.PARTIALLY_DELIVERED],
    Granularity.ORDER: [
        Status.ENROUTE,
        Status.DELIVERED,
        Status.UNDELIVERABLE,
        Status.PARTIALLY_DELIVERED,
        Status.REJECTED,
        Status.UNKNOWN,
        Status.UNREPORTED,
    ],
    Granularity.CONVERSATION: [Status.SENT],
}


@st.composite
def reports(
    draw: st.DrawFn, granularity: Granularity = Granularity.MESSAGE, keys: st.SearchStrategy[str] = _ONE_KEY
) -> DeliveryReport:
    """One statement about one of few deliveries."""
    fields: dict[str, Any] = {
        "granularity": granularity,
        "provider_key": draw(keys),
        "status": draw(st.sampled_from(STATUSES[granularity])),
        "provider_status": draw(st.sampled_from(["1", "2"])),
        "reason": draw(st.none() | st.sampled_from([Reason.ABSENT, Reason.OTHER])),
        "provider_error": draw(_maybe_text),
        "parent_key": draw(_maybe_text),
        "client_ref": draw(_maybe_text),
        "recipient": draw(_maybe_text),
        "segments": draw(_maybe_count),
        "credits": draw(st.none() | st.sampled_from([0.5, 0.1, 1.0, 2])),
        "sent_at": draw(_maybe_moment),
        "extra": draw(st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from([1, "1", None, [1.5]]), max_size=2)),
        "source": draw(st.sampled_from([Source.POLL, Source.CALLBACK, Source.OURS])),
        "as_of": draw(_maybe_moment),
        "statement": draw(st.sampled_from([{}, {"raw": 1}, {"raw": 2}])),
    }
    if granularity is not Granularity.MESSAGE:
        fields |= {name: draw(_maybe_count) for name in ("total", "delivered", "undelivered", "waiting")}
    if granularity is Granularity.CONVERSATION:
        fields |= {"as_of": draw(moments), "day": DAY, "reason": None}
    return DeliveryReport(**fields)


@st.composite
def batches_of_restatements(
    draw: st.DrawFn, keys: st.SearchStrategy[str]
) -> list[tuple[list[DeliveryReport], datetime]]:
    """Batches with the moment they were asked for, in which few statements are made again and again in various ways."""
    few = draw(st.lists(granularities.flatmap(lambda word: reports(word, keys)), min_size=1, max_size=6))
    again = st.builds(replace, st.sampled_from(few), as_of=_maybe_moment, source=st.sampled_from(Source))
    # A conversation's counts are only ever polled, so their time is always known.
    timed = again.map(lambda told: replace(told, source=Source.POLL) if told.day else told)
    return draw(st.lists(st.tuples(st.lists(timed, min_size=1, max_size=6), moments), min_size=1, max_size=4))


granularities = st.sampled_from(list(Granularity))


def statements(*, min_size: int = 1, max_size: int = 5) -> st.SearchStrategy[list[DeliveryReport]]:
    """A small set of statements about one delivery."""
    return granularities.flatmap(lambda word: st.lists(reports(word), min_size=min_size, max_size=max_size))
