"""What every column and word of the shared table means, in one sentence each.

The only definition: the database's comments, the OpenAPI document, `docs/delivery-status.md`, the dbt
source file and the English tooltips of the status page are made from it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from ulak.models.vocabulary import FAILURES, Granularity, Reason, Source, Status


class Outcome(StrEnum):
    """What became of a message, as the views and reports count it."""

    DELIVERED = "delivered"
    FAILED = "failed"
    PENDING = "pending"


class TimeSource(StrEnum):
    """Where a row's `message_time` comes from."""

    OWN = "own"
    ORDER = "order"
    FIRST_SEEN = "first_seen"


def outcome_of(status: Status) -> Outcome:
    """What a message with this status counts as. Nothing counts as delivered or failed that no provider reported so."""
    if status in {Status.DELIVERED, Status.READ}:
        return Outcome.DELIVERED
    return Outcome.FAILED if status in FAILURES else Outcome.PENDING


GRANULARITIES: Final[Mapping[Granularity, str]] = {
    Granularity.MESSAGE: "One message to one recipient.",
    Granularity.ORDER: "One order (send, campaign) with its counts; its messages are rows of their own.",
    Granularity.CONVERSATION: "How many messages one person sent to another on one UTC day; no delivery report.",
}

STATUSES: Final[Mapping[Status, str]] = {
    Status.SCHEDULED: "Accepted for a later time; nothing has been sent yet. A further report is expected.",
    Status.ENROUTE: "Handed over to the provider or operator, without an outcome yet. A further report is expected.",
    Status.UNKNOWN: "The provider uses a status code that is not documented: see provider_status. A further report is "
    "expected.",
    Status.UNREPORTED: "Validity has ended and the provider never reported an outcome. Final, but a late report "
    "replaces it; it proves neither delivery nor failure.",
    Status.SENT: "Sent, and the provider gives no delivery report for it: whether it arrived will never be known. "
    "Final, but a report of an outcome replaces it.",
    Status.DELIVERED: "The operator or device confirmed that the message arrived. Final.",
    Status.UNDELIVERABLE: "The message did not reach the recipient. Final.",
    Status.EXPIRED: "The message could not be delivered within its validity. Final.",
    Status.REJECTED: "The provider or operator refused the message; it was never handed over. Final.",
    Status.PARTIALLY_DELIVERED: "Orders only: some of its messages were delivered and some were not. Final.",
    Status.READ: "The recipient opened the message. Final; it includes delivery.",
}

REASONS: Final[Mapping[Reason, str]] = {
    Reason.INVALID_NUMBER: "The number does not exist, is malformed, or has no subscriber or user.",
    Reason.ABSENT: "The subscriber could not be reached: the phone is off, out of coverage or the line is passive.",
    Reason.HANDSET: "The handset could not take the message, for instance because its memory is full.",
    Reason.NETWORK: "A fault in an operator's network or between operators.",
    Reason.CONTENT: "The text, sender name or form of the message was refused.",
    Reason.OPTED_OUT: "The person does not accept such messages (for instance by the consent register İYS).",
    Reason.BLACKLISTED: "The number is on a black list of the provider or of the sender.",
    Reason.QUOTA: "A quota, limit or credit was used up.",
    Reason.SMS_BARRED: "The line cannot receive messages: the service is barred or the plan excludes it.",
    Reason.EXPIRED: "Validity ended before the message could be delivered; no other cause was reported.",
    Reason.TEST: "A test message that is never delivered.",
    Reason.OTHER: "Another cause: see provider_error and provider_status.",
}

SOURCES: Final[Mapping[Source, str]] = {
    Source.POLL: "The response to a poll.",
    Source.CALLBACK: "A webhook call of the provider.",
    Source.SEND_REPLY: "The response to the send request, handed over by the sender.",
    Source.OURS: "Ulak's own conclusion: validity has ended without a report.",
}

OUTCOMES: Final[Mapping[Outcome, str]] = {
    Outcome.DELIVERED: "The status is delivered or read.",
    Outcome.FAILED: "The status is undeliverable, expired or rejected.",
    Outcome.PENDING: "No outcome is known: every other status. With is_final true none is expected any more "
    "(unreported, sent). Leave these out of a delivery rate.",
}

TIME_SOURCES: Final[Mapping[TimeSource, str]] = {
    TimeSource.OWN: "The row's own sent_at.",
    TimeSource.ORDER: "The sent_at of the message's order; the provider reported none for the message.",
    TimeSource.FIRST_SEEN: "first_seen_at: neither the row nor its order had a sending time.",
}

COLUMNS: Final[Mapping[str, str]] = {
    "id": "Row id of Ulak. Never reused; stays the same for the life of the row.",
    "account_id": "The account in accounts.toml that the message was sent through.",
    "provider": "The provider of the account.",
    "granularity": "What the row is about: message, order or conversation. Count only one of them in one query.",
    "provider_key": "The provider's id of the message, order or conversation; unique within account and granularity.",
    "parent_key": "Messages: the provider_key of their order or send. Conversations: the customer who wrote.",
    "client_ref": "The sender's own reference, where it is known. Not unique.",
    "recipient": "The recipient: E.164 where it is a phone number, otherwise the provider's own id of the person.",
    "status": "The status in the vocabulary that is the same for all providers.",
    "is_final": "Whether no further report is expected. A later report can still replace a weaker final status.",
    "reason": "Why a message did not arrive; null where it did or where no cause is known.",
    "provider_status": "The provider's own status code, exactly as reported.",
    "provider_error": "The provider's own error code, exactly as reported; null where there is none.",
    "conflict": "The provider reported contradicting final statuses of the same message; the history shows them.",
    "total": "Orders: recipients of the order. Conversations: messages counted on that day.",
    "delivered": "Orders: recipients reported as delivered.",
    "undelivered": "Orders: recipients reported as not delivered.",
    "waiting": "Orders: recipients without an outcome so far.",
    "segments": "How many SMS parts the message takes.",
    "credits": "The provider's price in its own credits. Whether it is what was charged differs by provider: read its "
    "page before adding it up.",
    "sent_at": "When the provider says it was sent; null where it does not say. Compare with message_time.",
    "done_at": "When the provider says that the final status was reached; null where it does not say.",
    "valid_until": "When the provider stops trying to deliver; null where it does not say.",
    "message_time": "The time to group and filter by: the row's own sent_at, otherwise its order's, otherwise "
    "first_seen_at. Does not change once the row is final.",
    "message_time_source": "Where message_time comes from: own, order or first_seen.",
    "first_seen_at": "When Ulak stored the first report about it.",
    "changed_at": "When a column of the row last changed.",
    "changed_in": "The transaction of the last change. Internal: the order of the change feed.",
    "extra": "Further fields of the provider, without message texts and names.",
}

TABLE: Final = (
    "One row for each message, order and conversation-day that a provider reported, with its present status. Written "
    "only by Ulak. For messages alone, with day and outcome, use the view messages."
)

VIEWS: Final[Mapping[str, str]] = {
    "messages": "One row for each message, with its outcome and the local day of its account. The stable interface "
    "for reports and joins: columns may be added, none is renamed or removed.",
    "orders": "One row for each order (send, campaign) with the counts that the provider reported.",
    "conversations": "One row for each person, other person, group and UTC day: how many messages were exchanged.",
}

VIEW_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "messages": {
        "order_key": "The provider_key of the message's order or send: joins orders(account_id, order_key).",
        "outcome": "delivered, failed or pending, by the status.",
        "local_day": "The calendar day of message_time in the account's time zone.",
        "seconds_to_done": "Seconds from sent_at to done_at; null unless the provider reports both of the message "
        "itself.",
    },
    "orders": {
        "order_key": "The provider's id of the order; unique within the account.",
        "failed": "Recipients reported as not delivered.",
        "pending": "Recipients without an outcome so far.",
        "local_day": "The calendar day of message_time in the account's time zone.",
    },
    "conversations": {
        "conversation_key": "The provider's id of the conversation-day; unique within the account.",
        "sender": "Who wrote, by the provider's id.",
        "receiver": "Who was written to, by the provider's id.",
        "day": "The UTC calendar day that is counted.",
        "messages": "How many messages were counted on that day; the provider corrects it for up to two days.",
    },
}
"""What the columns mean that a view has and the table has not, or has with another meaning."""


def view_column(view: str, column: str) -> str:
    """What a column of a view means."""
    return VIEW_COLUMNS[view].get(column) or COLUMNS[column]
