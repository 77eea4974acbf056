"""The Redis client factory, with explicit retries and time-outs.

redis-py's own defaults differ by constructor (`from_url` never retries, `Redis(...)` retries ten
times) and wait indefinitely.
"""

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

CONNECT_TIMEOUT_SECONDS = 5.0
SOCKET_TIMEOUT_SECONDS = 15.0
HEALTH_CHECK_SECONDS = 10


def connect(
    url: str,
    *,
    retries: int = 3,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
) -> redis.Redis:
    """A client for `redis://`, `rediss://` or `unix://`; answers are `str`.

    Nothing is sent before the first command. A lost connection or a time-out is tried again
    `retries` times (0.05 s doubling to 1 s), then raises `redis.exceptions.RedisError`. Use it as
    a context manager or close it.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_connect_timeout=connect_timeout_seconds,
        socket_timeout=socket_timeout_seconds,
        socket_keepalive=True,
        health_check_interval=HEALTH_CHECK_SECONDS,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
