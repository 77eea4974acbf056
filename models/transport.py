"""How a session reaches PostgreSQL: what somebody on the way could read, or answer in its place."""

from typing import Any, Final

from sqlalchemy import Connection

from ulak.core.addresses import is_loopback

VERIFIED: Final = "verify-full"


def transport_fault(connection: Connection) -> str | None:
    """`unencrypted` or `unverified` where a session to another host is; None where it is well, or stays on this host.

    As libpq says of this very session, so that variables such as `PGSSLMODE` count as well. Its default, `prefer`,
    takes any certificate and does without encryption where the server offers none; only `verify-full` compares the name
    (https://www.postgresql.org/docs/current/libpq-ssl.html).
    """
    session: Any = connection.connection.dbapi_connection
    host = session.pgconn.host.decode()
    if not host or host.startswith(("/", "@")) or is_loopback(host):
        return None
    if not session.pgconn.ssl_in_use:
        return "unencrypted"
    options = {option.keyword: option.val for option in session.pgconn.info}
    return None if options.get(b"sslmode") == VERIFIED.encode() else "unverified"
