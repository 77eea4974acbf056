"""Many deliveries at once, by the identifiers that a sender has."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import chain
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from ulak.api.authorization import NEEDS_READ, Who
from ulak.api.deliveries import Delivery, Unanswered, note_reading, note_search, shown, unanswered_of
from ulak.api.dependencies import Dependencies, Deps
from ulak.api.fields import AccountId, Given, Text
from ulak.api.problems import check_account, documented, wrong_fields
from ulak.models.access import Role
from ulak.models.searches import Identifier, look_up, waiting_for
from ulak.providers.phone_numbers import trimmed
from ulak.workers.audit_recording import Row, people_in

MAX_ASKED = 1000
MAX_EACH = 20

router = APIRouter(tags=["deliveries"])
_FIELDS: Mapping[Identifier, str] = {
    Identifier.CLIENT_REF: "client_refs",
    Identifier.PROVIDER_KEY: "provider_keys",
    Identifier.RECIPIENT: "recipients",
}
Asked = Annotated[list[Text], Field(max_length=MAX_ASKED)]
NONE: list[str] = []
"""pydantic copies a default."""


class Lookup(Given):
    """What to look up; up to 1,000 identifiers in all."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"client_refs": ["order-77", "order-78"], "recipients": ["0530 123 45 67"]}]}
    )

    account: Annotated[AccountId | None, Field(description="Only for this account.")] = None
    client_refs: Annotated[Asked, Field(description="Your own references.")] = NONE
    provider_keys: Annotated[Asked, Field(description="The providers' ids of messages, orders, conversations.")] = NONE
    recipients: Annotated[Asked, Field(description="Numbers in any usual spelling, or providers' ids of people.")] = (
        NONE
    )


class LookedUp(BaseModel):
    """What is known by one identifier."""

    by: Identifier
    value: Annotated[str, Field(description="As it was asked for.")]
    deliveries: Annotated[list[Delivery], Field(description=f"The newest first, at most {MAX_EACH}.")]
    more: Annotated[bool, Field(description="There are older ones: GET /v1/deliveries gives them all.")]
    unanswered: Annotated[
        list[Unanswered], Field(description="Registered by it, and not reported by the provider yet.")
    ]


class LookedUpAll(BaseModel):
    """One entry for each identifier, in the order of the request: references, keys, recipients."""

    results: list[LookedUp]


@router.post(
    "/deliveries/lookup",
    dependencies=[NEEDS_READ],
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="Look up to 1,000 identifiers up",
)
def look_up_many(asked: Lookup, deps: Deps, who: Who) -> LookedUpAll:
    """References, providers' keys and recipients together, in one request. What is not known has empty lists.

    With recipients, or with a number within a key or reference, it takes the role support, and each person is recorded.
    Numbers are masked below the role operate.
    """
    given: dict[Identifier, list[str]] = {by: getattr(asked, field) for by, field in _FIELDS.items()}
    many = sum(map(len, given.values()))
    if not many:
        raise wrong_fields([("body", f"holds nothing to look up: give {', '.join(_FIELDS.values())}")])
    if many > MAX_ASKED:
        raise wrong_fields([("body", f"has too many entries: give at most {MAX_ASKED} in all")])
    people = list(dict.fromkeys((*asked.recipients, *people_in(*asked.client_refs, *asked.provider_keys))))
    accounts = who.scope(Role.SUPPORT if people else Role.READ, asked.account)
    results: list[LookedUp] = []
    rows_read: list[Row] = []
    with deps.engine.connect() as connection:
        check_account(connection, asked.account)
        for by, values in given.items():
            if not values:
                continue
            spellings = [_spellings(deps, by, value) for value in values]
            found = look_up(connection, by, spellings, accounts=accounts, most=MAX_EACH + 1)
            waiting = waiting_for(connection, by, spellings, accounts=accounts)
            if by is not Identifier.RECIPIENT:
                rows_read += chain.from_iterable(found)
                rows_read += chain.from_iterable(waiting.values())
            results += [
                LookedUp(
                    by=by,
                    value=value,
                    deliveries=[shown(row, who) for row in rows[:MAX_EACH]],
                    more=len(rows) > MAX_EACH,
                    unanswered=[
                        unanswered_of(row, who) for form in dict.fromkeys(forms) for row in waiting.get(form, ())
                    ],
                )
                for value, forms, rows in zip(values, spellings, found, strict=True)
            ]
    note_search(deps, who, asked.account, people)
    note_reading(deps, who, rows_read)
    return LookedUpAll(results=results)


def _spellings(deps: Dependencies, by: Identifier, value: str) -> Sequence[str]:
    if by is Identifier.RECIPIENT:
        return deps.recorder.spellings(value)
    return deps.recorder.key_forms(trimmed(value)) if by is Identifier.PROVIDER_KEY else (trimmed(value),)
