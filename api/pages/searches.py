"""What somebody looks for among the deliveries.

A search may hold a person's number, so it travels in the address only sealed: no history, log or referrer can tell it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import Connection, RowMapping

from ulak.models.access import Access, Role
from ulak.models.lookups import find_by_any
from ulak.models.searches import find_deliveries, open_tracked
from ulak.models.vocabulary import Status
from ulak.providers.numbers import lookup_form, person, same_number_spellings, trimmed
from ulak.workers.recording import people_in

PAGE = 50
MOST_PARTS = 10
"""How many parts of the table a page looks through for its rows."""
LASTS_SECONDS = 12 * 3600
LONGEST_WORD = 200
LONGEST_SEALED = 4000
MOST_OF_AN_ID = 500
STATUSES = tuple(word.value for word in Status)


class Search(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is given must match."""

    recipient: str = ""
    client_ref: str = ""
    id: str = ""
    """A row id or a provider's key."""
    status: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of a search."""

    rows: Sequence[RowMapping]
    unanswered: Sequence[RowMapping] = field(default_factory=tuple)
    """Registered ids without any answer, on the first page of a search for a person or a reference."""
    next_after: int | None = None
    """The cursor of the next page."""


def search_of(fields: Mapping[str, str]) -> Search:
    """The search that a form asks for; what cannot be is left out."""
    words = {name: trimmed(fields.get(name, ""))[:LONGEST_WORD] for name in Search.__struct_fields__}
    # PostgreSQL knows no text with a zero in it.
    words = {name: word.replace("\x00", "") for name, word in words.items()}
    if words["status"] not in STATUSES:
        words["status"] = ""
    return Search(**words)


class Seal:
    """Seals searches for the address."""

    def __init__(self, box: Fernet) -> None:
        """`box`: for this purpose alone."""
        self._fernet = box

    def close(self, search: Search) -> str:
        """The search, unreadable."""
        return self._fernet.encrypt(msgspec.json.encode(search)).decode()

    def open(self, sealed: str) -> Search | None:
        """The search; None where it is too old or not ours."""
        if len(sealed) > LONGEST_SEALED:
            return None
        try:
            return msgspec.json.decode(self._fernet.decrypt(sealed.encode(), ttl=LASTS_SECONDS), type=Search)
        except (InvalidToken, ValueError, msgspec.MsgspecError):
            return None


def find(connection: Connection, search: Search, access: Access, *, after_id: int) -> Found:
    """One page of what matches and may be known, in the order of the row ids.

    A person is looked for only in the accounts for which the caller has the role support.
    """
    if search.id:
        return _find_id(connection, search, access)
    accounts = access.accounts(needed_role(search))
    rows: list[RowMapping] = []
    place: int | None = after_id
    for _ in range(MOST_PARTS):
        page = find_deliveries(
            connection,
            account=search.account or None,
            accounts=accounts,
            status=search.status or None,
            recipient=same_number_spellings(search.recipient) if search.recipient else None,
            client_ref=search.client_ref or None,
            limit=PAGE + 1 - len(rows),
            after_id=place or 0,
        )
        rows += page.rows
        place = page.next_after
        if place is None or len(rows) > PAGE:
            break
    return Found(
        rows=rows[:PAGE],
        unanswered=[] if after_id or search.status else _unanswered(connection, search, accounts),
        next_after=rows[PAGE - 1]["id"] if len(rows) > PAGE else place,
    )


def people_sought(search: Search) -> list[str]:
    """Whom the search is for: a recipient, and the numbers that the reference or the id is or holds."""
    named = (person(search.recipient), lookup_form(search.id), *people_in(search.client_ref, search.id))
    return list(dict.fromkeys(each for each in named if each))


def needed_role(search: Search) -> Role:
    """The role that the search takes. By id everybody may search: what each may find is decided row by row."""
    return Role.SUPPORT if search.recipient or people_in(search.client_ref) else Role.READ


def _find_id(connection: Connection, search: Search, access: Access) -> Found:
    """The few rows that an id may mean."""
    rows = find_by_any(connection, search.id, recipient=lookup_form(search.id), limit=MOST_OF_AN_ID)
    return Found(rows=[row for row in rows if _matches(row, search) and _may_find(row, search, access)])


def _may_find(row: RowMapping, search: Search, access: Access) -> bool:
    """Whether the row may be found by this id: by a person's only with the role support."""
    account = row["account_id"]
    is_named = not people_in(search.id) and search.id in {str(row["id"]), row["provider_key"], row["client_ref"]}
    needed = Role.READ if is_named and not search.recipient else Role.SUPPORT
    return access.may(needed, account)


def _matches(row: RowMapping, search: Search) -> bool:
    given = (("account_id", search.account), ("status", search.status), ("client_ref", search.client_ref))
    persons = same_number_spellings(search.recipient) if search.recipient else (row["recipient"],)
    return row["recipient"] in persons and all(not word or row[name] == word for name, word in given)


def _unanswered(connection: Connection, search: Search, accounts: Collection[str] | None) -> Sequence[RowMapping]:
    """Registered ids that no provider has answered; without a person or a reference they would be everybody's."""
    if not search.recipient and not search.client_ref:
        return []
    return open_tracked(
        connection,
        account=search.account or None,
        accounts=accounts,
        recipient=same_number_spellings(search.recipient) if search.recipient else None,
        client_ref=search.client_ref or None,
        limit=PAGE,
    )
