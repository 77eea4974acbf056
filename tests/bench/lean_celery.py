"""The leanest Celery form of the same work, to be measured against: a page is a task, and nothing is remembered.

    BENCH_…=… celery -A lean_celery worker --pool=threads --concurrency=8

One shared HTTP client, msgspec to structs, one statement with one JSON parameter that writes only what is new or
changed, into a copy of our table with the same indexes. No ledger, no limiter, no history, no quarantine.
"""

import os
from datetime import UTC, datetime
from itertools import count
from threading import Lock, local

import httpx
import msgspec
import psycopg
import redis
from celery import Celery

DONE_KEY = "lean:done"

_COLUMNS = (
    "provider_key, parent_key, client_ref, recipient, status, is_final, provider_status, segments, credits, sent_at,"
    " done_at, extra"
)
_UPSERT = f"""
INSERT INTO lean_status (account_id, provider, granularity, {_COLUMNS})
SELECT 'lean', 'organik', 'message', {", ".join(f"r.{name}" for name in _COLUMNS.split(", "))}
FROM jsonb_to_recordset(%s::jsonb) AS r(
  provider_key text, parent_key text, client_ref text, recipient text, status text, is_final boolean,
  provider_status text, segments integer, credits numeric, sent_at timestamptz, done_at timestamptz, extra jsonb)
LEFT JOIN LATERAL (
  SELECT * FROM lean_status WHERE account_id = 'lean' AND granularity = 'message' AND provider_key = r.provider_key
  LIMIT 1
) d ON true
WHERE d.id IS NULL
  OR (d.status, d.done_at, d.provider_status, d.extra)
    IS DISTINCT FROM (r.status, r.done_at, r.provider_status, r.extra)
ORDER BY r.provider_key
ON CONFLICT (account_id, granularity, provider_key) DO UPDATE SET
  status = excluded.status, is_final = excluded.is_final, provider_status = excluded.provider_status,
  done_at = excluded.done_at, extra = excluded.extra, changed_at = clock_timestamp()
"""
_STATUS = {0: "scheduled", 1: "enroute", 2: "delivered", 3: "undeliverable", 4: "expired"}


class Item(msgspec.Struct):
    """The fields of a row that have a column."""

    gsm: str
    transaction_id: str
    gsm_track_id: str
    delivery_track_id: str
    start_date: datetime
    finish_date: datetime | None
    status: int
    sms_count: int
    credit_amount: str


class Response(msgspec.Struct):
    """The rows, each kept as it came as well."""

    data: list[msgspec.Raw]


class Answer(msgspec.Struct):
    """A whole answer."""

    response: Response


app = Celery("lean", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
    broker_connection_retry_on_startup=True,
)
_client = httpx.Client(base_url=os.environ["BENCH_BASE_URL"])
_broker = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])
_read_answer = msgspec.json.Decoder(Answer).decode
_read_item = msgspec.json.Decoder(Item).decode
_mine = local()
_lock = Lock()
_done = count(1)


def _connection() -> psycopg.Connection[tuple[object, ...]]:
    """One connection for each thread, as one pool for each process would give."""
    if not hasattr(_mine, "connection"):
        _mine.connection = psycopg.connect(os.environ["BENCH_DATABASE_URL"])
    connection: psycopg.Connection[tuple[object, ...]] = _mine.connection
    return connection


@app.task(name="lean.begin")  # type: ignore[untyped-decorator]
def begin(transactions: list[str]) -> None:
    """Send a task for each page."""
    global _done  # noqa: PLW0603 - one pass at a time
    _done = count(1)
    for transaction in transactions:
        fetch.delay(transaction, len(transactions))


@app.task(name="lean.fetch")  # type: ignore[untyped-decorator]
def fetch(transaction: str, pages: int) -> None:
    """Ask for one page and write it; the last page of the pass says so."""
    asked = _client.post("/v2/key/detailedreport/json/", json={"data": {"transaction_ids": [transaction]}})
    rows = dict(map(_row, _read_answer(asked.content).response.data))
    parameter = msgspec.json.encode([rows[key] for key in sorted(rows)]).decode()
    connection = _connection()
    with connection.transaction():
        connection.execute(_UPSERT.encode(), [parameter])
    with _lock:
        is_last = next(_done) == pages
    if is_last:
        _broker.lpush(DONE_KEY, "done")


def _row(raw: msgspec.Raw) -> tuple[str, dict[str, object]]:
    item = _read_item(raw)
    return item.gsm_track_id, {
        "provider_key": item.gsm_track_id,
        "parent_key": item.transaction_id,
        "client_ref": item.delivery_track_id,
        "recipient": f"+{item.gsm}",
        "status": _STATUS[item.status],
        "is_final": item.status > 1,
        "provider_status": str(item.status),
        "segments": item.sms_count,
        "credits": float(item.credit_amount),
        "sent_at": item.start_date.replace(tzinfo=UTC),
        "done_at": item.finish_date.replace(tzinfo=UTC) if item.finish_date else None,
        "extra": raw,
    }
