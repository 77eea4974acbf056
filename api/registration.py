"""Registering ids in bulk: one request, a hundred thousand ids, an answer for each."""

import re
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from ulak.api.authorization import NEEDS_OPERATE, Caller, Who
from ulak.api.body_limits import TRACKED_CAP_BYTES, read_body
from ulak.api.dependencies import Dependencies, Deps
from ulak.api.fields import in_our_time
from ulak.api.problems import ProblemError, documented, existing_account, wrong_fields
from ulak.api.validation_messages import mistake_in
from ulak.core.redaction import redact_text
from ulak.models.access import Role
from ulak.models.events import Action
from ulak.tasks.steps.idcheck import IdCheck
from ulak.tasks.steps.tracking import MAX_AT_ONCE, track

MAX_IDS = 100_000
REGISTERED, REFUSED = "registered", "refused"
_MAX_INTEGER = 2**31 - 1
_DEPTH_OF_IDS = 2
_MAX_TOKENS = 50 * MAX_IDS
"""Braces, names, values and commas: twice what ids with all seven fields have."""
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)

router = APIRouter(tags=["tracked ids"])

ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Item(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One id as it is given."""

    kind: ShortText
    value: ShortText
    client_ref: ShortText | None = None
    recipient: ShortText | None = None
    expected: Annotated[int, msgspec.Meta(ge=1, le=_MAX_INTEGER)] | None = None
    sent_at: Time | None = None
    valid_until: Time | None = None


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """The request without the ids, which are decoded one by one."""

    account: str
    ids: list[msgspec.Raw]


class ItemResult(BaseModel):
    """What became of one id."""

    index: Annotated[int, Field(description="Its place in `ids`, from 0.")]
    result: Annotated[str, Field(description="registered (also when it was before) or refused")]
    problem: Annotated[str | None, Field(description="With refused: what is wrong and what would be right.")] = None


class Tracked(BaseModel):
    """What became of the ids."""

    registered: Annotated[
        int, Field(description="Ids that are polled from now on, or whose reference is kept; new or known.")
    ]
    new: Annotated[int, Field(description="Of them, how many were not known before.")]
    refused: int
    results: list[ItemResult]


_TIME_SCHEMA = {"type": "string", "format": "date-time", "description": "With an offset, such as 2026-05-01T10:00:00Z."}
_ITEM_SCHEMA = {
    "type": "object",
    "required": ["kind", "value"],
    "additionalProperties": False,
    "properties": {
        "kind": {"type": "string", "description": "A kind of the account's provider, such as `transaction`."},
        "value": {"type": "string"},
        "client_ref": {"type": "string", "description": "Your own id, to find the delivery by."},
        "recipient": {"type": "string", "description": "A number in any usual spelling."},
        "expected": {"type": "integer", "minimum": 1, "description": "How many rows the provider will report."},
        "sent_at": _TIME_SCHEMA,
        "valid_until": _TIME_SCHEMA,
    },
}
BODY_SCHEMA = {
    "type": "object",
    "required": ["account", "ids"],
    "additionalProperties": False,
    "properties": {
        "account": {"type": "string"},
        "ids": {"type": "array", "minItems": 1, "maxItems": MAX_IDS, "items": _ITEM_SCHEMA},
    },
    "example": {
        "account": "marka-sms",
        "ids": [{"kind": "transaction", "value": "123456", "client_ref": "order-77", "expected": 1}],
    },
}


@router.post(
    "/tracked",
    dependencies=[NEEDS_OPERATE],
    response_model=Tracked,
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="Register ids so that they get polled",
    description=f"Up to {MAX_IDS} ids and {TRACKED_CAP_BYTES // 2**20} MiB in one request. Idempotent: what is "
    "registered already stays. A wrong id is refused; the others are registered. `order`, "
    "`message` and `conversation` name deliveries by the provider's key and are not polled: only `client_ref` is kept "
    "and attached to the deliveries, including those that are stored already.",
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": BODY_SCHEMA}}}},
)
async def register(request: Request, deps: Deps, who: Who) -> Response:
    """Registers ids; committed when the answer comes."""
    body = await read_body(request)
    answer = await run_in_threadpool(register_body, deps, who, body)
    return Response(answer, media_type="application/json")


def register_body(deps: Dependencies, who: Caller, body: bytes) -> bytes:
    """Register what the body names; the answer as JSON."""
    given = envelope_of(body)
    who.admit(Role.OPERATE, given.account)
    with deps.engine.connect() as connection:
        stored = existing_account(connection, given.account)
    deps.recorder.add_hourly(who.event(Action.IDS_REGISTERED, account=stored.id))
    check = IdCheck(stored)
    good: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    new = 0
    for index, raw in enumerate(given.ids):
        item, why = read_item(raw, check)
        if item is None:
            results.append({"index": index, "result": REFUSED, "problem": why})
        else:
            results.append({"index": index, "result": REGISTERED, "problem": None})
            good.append(item)
        if len(good) == MAX_AT_ONCE:
            new += track(deps.runtime, given.account, good)
            good.clear()
    new += track(deps.runtime, given.account, good)
    registered = sum(each["result"] == REGISTERED for each in results)
    counts = {"registered": registered, "new": new, "refused": len(results) - registered}
    return msgspec.json.encode(counts | {"results": results})


def envelope_of(body: bytes) -> Envelope:
    """The ids that a body holds, none read yet; a problem where it is no such body."""
    if _has_too_many(body):
        raise _too_many()
    try:
        given = msgspec.json.decode(body, type=Envelope)
    except msgspec.ValidationError as error:
        field, what = mistake_in(error, Envelope.__struct_fields__)
        raise wrong_fields([(f"body.{field}".removesuffix("."), what)]) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "The body cannot be read: it must be JSON in UTF-8.") from None
    if not given.ids:
        raise wrong_fields([("body.ids", "is empty: give at least one id")])
    if len(given.ids) > MAX_IDS:
        raise _too_many()
    return given


def _too_many() -> ProblemError:
    detail = f"At most {MAX_IDS} ids in one request: send the rest in another."
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def _has_too_many(body: bytes) -> bool:
    """Whether it certainly holds more ids than are allowed, found before one of them is decoded.

    Counted are the commas between the items of a list in an object, and all that an id could be written with.
    """
    if body.count(b",") < MAX_IDS:
        return False
    depth = items = 0
    for count, token in enumerate(_TOKENS.finditer(body)):
        match body[token.start()]:
            case 0x7B | 0x5B:  # { [
                depth += 1
            case 0x7D | 0x5D:  # } ]
                depth -= 1
            case 0x2C:  # ,
                items += depth == _DEPTH_OF_IDS
        if items >= MAX_IDS or count > _MAX_TOKENS:
            return True
    return False


def read_item(raw: msgspec.Raw | bytes, check: IdCheck) -> tuple[dict[str, Any] | None, str | None]:
    """One id that can be registered, or (None, what is wrong with it and what would be right)."""
    fields, why = read_fields(raw)
    if fields is not None and (why := check.why_not(fields)) is not None:
        return None, redact_text(why)
    return fields, why


def read_fields(raw: msgspec.Raw | bytes) -> tuple[dict[str, Any] | None, str | None]:
    """What is given of one id, as the step takes it, or (None, what is wrong with it and what would be right)."""
    try:
        item = msgspec.json.decode(raw, type=Item)
    except msgspec.ValidationError as error:
        field, what = mistake_in(error, Item.__struct_fields__)
        return None, f"{field or 'the id'} {what}"
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None, "this is no JSON object in UTF-8"
    fields = {name: value for name in Item.__struct_fields__ if (value := getattr(item, name)) is not None}
    mistakes = [mistake for name, value in fields.items() if (mistake := _mistake(name, value))]
    return (None, redact_text("; ".join(mistakes))) if mistakes else (fields, None)


def _mistake(name: str, value: Any) -> str | None:
    if isinstance(value, str) and "\0" in value:
        return f"{name} must not contain a NUL character"
    if isinstance(value, datetime):
        try:
            in_our_time(value)
        except ValueError as error:
            return f"{name} {error}"
    return None
