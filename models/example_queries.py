"""Ready queries on the views, shown in `docs/reference/delivery-status.md`. A test runs each and checks its answer."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question and its answer in SQL."""

    name: str
    question: str
    note: str
    sql: str


QUERIES: Final = (
    Query(
        name="delivery_rate",
        question="What is the delivery rate of each account by day?",
        note="Messages without an outcome are left out of the rate and shown beside it. The condition on "
        "`message_time` uses an index; `local_day` is computed and has none.",
        sql="""\
SELECT account_id, local_day,
       count(*) FILTER (WHERE outcome = 'delivered') AS delivered,
       count(*) FILTER (WHERE outcome = 'failed') AS failed,
       count(*) FILTER (WHERE outcome = 'pending') AS pending,
       round(100.0 * count(*) FILTER (WHERE outcome = 'delivered')
             / nullif(count(*) FILTER (WHERE outcome <> 'pending'), 0), 1) AS delivery_rate
FROM messages
WHERE message_time >= now() - interval '30 days'
GROUP BY account_id, local_day
ORDER BY account_id, local_day""",
    ),
    Query(
        name="failures",
        question="Why do messages fail?",
        note="`share` is the percentage of the account's failed messages. The meaning of a provider's own code is on "
        "the provider's page, and `ulak explain` shows it.",
        sql="""\
SELECT account_id, coalesce(reason, 'not reported') AS reason, provider_status, provider_error, count(*) AS failed,
       round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY account_id), 1) AS share
FROM messages
WHERE outcome = 'failed' AND message_time >= now() - interval '7 days'
GROUP BY account_id, reason, provider_status, provider_error
ORDER BY account_id, failed DESC, reason, provider_status, provider_error""",
    ),
    Query(
        name="time_to_delivery",
        question="How long does delivery take?",
        note="Only messages whose provider reports both times of the message itself; `measured` says how many.",
        sql="""\
SELECT account_id, count(*) AS measured,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds_to_done) AS median_seconds,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds_to_done) AS p95_seconds
FROM messages
WHERE outcome = 'delivered' AND seconds_to_done IS NOT NULL AND message_time >= now() - interval '7 days'
GROUP BY account_id
ORDER BY account_id""",
    ),
    Query(
        name="join_references",
        question="What became of the messages of my own table?",
        note="Put your table in the place of `mine`. One reference may belong to several messages, or to none yet.",
        sql="""\
WITH mine (reference) AS (VALUES ('invoice-1'), ('invoice-2'), ('invoice-3'))
SELECT mine.reference, coalesce(m.outcome, 'not reported') AS outcome, m.status, m.reason, m.message_time, m.done_at
FROM mine LEFT JOIN messages m ON m.client_ref = mine.reference
ORDER BY mine.reference, m.id""",
    ),
    Query(
        name="orders_and_messages",
        question="Do the counts of an order agree with its messages?",
        note="The counts of an order are the provider's own statement; its messages are reported one by one, often "
        "later. Never add the two up.",
        sql="""\
SELECT o.account_id, o.order_key, o.total, o.delivered, o.failed, o.pending,
       count(m.id) AS messages,
       count(m.id) FILTER (WHERE m.outcome = 'delivered') AS messages_delivered,
       count(m.id) FILTER (WHERE m.outcome = 'failed') AS messages_failed
FROM orders o LEFT JOIN messages m ON m.account_id = o.account_id AND m.order_key = o.order_key
WHERE o.message_time >= now() - interval '7 days'
GROUP BY o.id, o.account_id, o.order_key, o.total, o.delivered, o.failed, o.pending
ORDER BY o.account_id, o.order_key""",
    ),
    Query(
        name="waiting",
        question="Which messages have waited for an outcome for more than a day?",
        note="Only those of which a report is still expected (`NOT is_final`).",
        sql="""\
SELECT account_id, status, count(*) AS messages, min(message_time) AS oldest
FROM messages
WHERE NOT is_final AND message_time < now() - interval '1 day'
GROUP BY account_id, status
ORDER BY account_id, status""",
    ),
)
