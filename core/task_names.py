"""Names that several processes must spell alike: Celery tasks and queues.

The task names are an API (they are called from Flower, from `celery call` and by old messages that
still lie in the broker after a deploy), so they never change.
"""

from types import MappingProxyType
from typing import Final

POLL_PROVIDER: Final = "poll.provider"
POLL_ACCOUNT: Final = "poll.account"
DISPATCH_ACCOUNT: Final = "dispatch.account"
FETCH_PAGE: Final = "fetch.page"
FETCH_BATCH: Final = "fetch.batch"
UPKEEP_RECONCILE: Final = "upkeep.reconcile"
UPKEEP_EXPIRE: Final = "upkeep.expire"
UPKEEP_PRUNE: Final = "upkeep.prune"

# Two queues: a fetch waits for a provider's answer for up to a minute, and planning, dispatching
# and healing must never stand behind such a wait.
QUEUE_CONTROL: Final = "control"
QUEUE_FETCH: Final = "fetch"
QUEUES: Final = (QUEUE_CONTROL, QUEUE_FETCH)

QUEUE_OF_TASK: Final = MappingProxyType(
    {
        POLL_PROVIDER: QUEUE_CONTROL,
        POLL_ACCOUNT: QUEUE_CONTROL,
        DISPATCH_ACCOUNT: QUEUE_CONTROL,
        FETCH_PAGE: QUEUE_FETCH,
        FETCH_BATCH: QUEUE_FETCH,
        UPKEEP_RECONCILE: QUEUE_CONTROL,
        UPKEEP_EXPIRE: QUEUE_CONTROL,
        UPKEEP_PRUNE: QUEUE_CONTROL,
    },
)
