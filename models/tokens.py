"""Bearer tokens of the task API, by name. Only their SHA-256 is stored; a token is random, so no salt is due."""

import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from sqlalchemy import Connection, Engine, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from ulak.core.logging import get_logger, origin
from ulak.models.access import Access, Role, grant_of
from ulak.models.database import transaction
from ulak.models.events import Kind
from ulak.models.tables import api_tokens

log = get_logger(__name__)

PREFIX = "ulak_"


class TokenNameError(ValueError):
    """The name cannot be given; the text says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What is known of a token."""

    name: str
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the hour, and missing where it could not be written: enough to see which tokens nobody uses."""
    role: str
    accounts: Sequence[str] | None
    """For these alone; None: for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """Whose token it is, and what it opens."""

    name: str
    access: Access


def digest(token: str) -> bytes:
    """What is stored and compared of a token."""
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def create_token(
    connection: Connection, name: str, *, role: Role = Role.ADMIN, accounts: Collection[str] | None = None
) -> str:
    """A new token, shown this once. A name is given once, so that a log line always means the same holder.

    `accounts`: the role holds for these alone; None: for all. They must exist.
    """
    if not (name.isascii() and name.replace("-", "").isalnum() and name == name.lower() and name[0] != "-"):
        raise TokenNameError(f"{name!r} is no name for a token: use a-z, 0-9 and -.")
    if name == Kind.CONFIGURED:
        raise TokenNameError(f"{name!r} means the bearer of ULAK_API_TOKEN: give the token another name.")
    token = PREFIX + secrets.token_urlsafe(32)
    limited = None if accounts is None else sorted(set(accounts))
    values = insert(api_tokens).values(name=name, sha256=digest(token), role=role.value, accounts=limited)
    values = values.on_conflict_do_nothing(index_elements=["name"])
    if connection.execute(values.returning(api_tokens.c.name)).one_or_none() is None:
        raise TokenNameError(f"There is a token {name!r} already (or was): give the new one another name.")
    return token


def list_tokens(connection: Connection) -> Sequence[TokenRecord]:
    """All tokens by name, revoked ones too."""
    table = api_tokens.c
    columns = (table.name, table.created_at, table.revoked_at, table.last_used_at, table.role, table.accounts)
    query = select(*columns).order_by(table.name)
    return [TokenRecord(**row) for row in connection.execute(query).mappings()]


def revoke_token(connection: Connection, name: str) -> bool:
    """Refuse the token from now on; False where it was revoked already. LookupError where there is none."""
    table = api_tokens.c
    change = update(api_tokens).where(table.name == name, table.revoked_at.is_(None)).values(revoked_at=func.now())
    if connection.execute(change).rowcount:
        return True
    if connection.execute(select(table.name).where(table.name == name)).one_or_none() is None:
        raise LookupError(f"There is no token {name!r}: `ulak tokens list` shows the known ones.")
    return False


# Who waits for the row, or finds nobody who may write, goes on without.
_TOUCH = text("""
    UPDATE api_tokens SET last_used_at = date_trunc('hour', now())
    WHERE name = (SELECT name FROM api_tokens WHERE name = :name
                  AND (last_used_at IS NULL OR last_used_at < date_trunc('hour', now())) FOR UPDATE SKIP LOCKED)
""")


def bearer_of(engine: Engine, token: str) -> Bearer | None:
    """Whose token it is, where it is one of ours and not revoked. Notes the hour of its use, if that works."""
    given = digest(token)
    table = api_tokens.c
    is_noted = func.coalesce(table.last_used_at >= func.date_trunc("hour", func.now()), False)
    is_read_only = func.current_setting("transaction_read_only") == "on"
    query = select(
        table.name, table.sha256, table.role, table.accounts, (is_noted | is_read_only).label("needs_no_note")
    )
    with engine.connect() as connection:
        row = connection.execute(query.where(table.sha256 == given, table.revoked_at.is_(None))).one_or_none()
    # The index compares digests, which tell nothing of the token; the answer itself is compared in constant time.
    if row is None or not hmac.compare_digest(bytes(row.sha256), given):
        return None
    if not row.needs_no_note:
        _note_use(engine, row.name)
    return Bearer(name=row.name, access=grant_of(row.role, row.accounts))


def _note_use(engine: Engine, name: str) -> None:
    try:
        with transaction(engine) as connection:
            connection.execute(_TOUCH, {"name": name})
    except SQLAlchemyError as error:
        log.info("token.use_not_noted", token=name, error=origin(error))
