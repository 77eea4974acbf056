"""What is wrong with a request is said in our words: the field, what is wrong, what would be right, never the value."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from database_fixtures import add_account
from task_api import Api, api

from ulak.api import validation_messages
from ulak.api.registration import Item
from ulak.api.validation_messages import NOT_VALID
from ulak.models.database import transaction

__all__ = ["api"]

CANARY = "c4n4ry"
THEIRS = re.compile(
    r"[Ii]nput|Expected|expected|Field required|Extra inputs|parsing|unable|valid (string|integer|number)|pattern|"
    r"pydantic|msgspec|type=|\bgot\b|RFC|`|String should|List should|tuple|dict|\bstr\b|\bint\b|\bobject at\b|\{|\}|'"
)
"""Words of the libraries, and of Python."""
WRONG_WORDS = (CANARY, "", "-1", "0", "1e9", "nan", "9" * 400, "2026-13-41", "2026-05-01T10:00:00", "2026-05-01", "\0")
WRONG_VALUES: tuple[Any, ...] = (
    CANARY, "", 0, -1, 10**40, 2.5, None, True, [], {}, [[]], [{}], [CANARY], {CANARY: 1}, [{CANARY: 1}],
    "2026-05-01T10:00:00", "1800-01-01T00:00:00Z", "x" * 500, "a\0",
)  # fmt: skip
VALID: Mapping[str, Any] = {
    "account": "marka-sms", "kind": "number", "value": "1:+905301234567", "from": "2026-05-01", "to": "2026-05-01",
    "ids": [{"kind": "number", "value": "1:+905301234567"}], "reason": "r", "until": "2099-01-01T00:00:00Z",
}  # fmt: skip


@pytest.fixture
def operations(api: Api) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(method, path, description) of everything in the OpenAPI document; one account is there."""
    with transaction(api.engine) as connection:
        add_account(connection, "marka-sms")
    paths: Mapping[str, Any] = api.get("/openapi.json")["paths"]
    return [(method, path, each) for path, operations in paths.items() for method, each in operations.items()]


def requests_of(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Any]:
    """(field, httpx arguments) of requests each of which is wrong in one place, for every parameter and field."""
    asked = operation.get("parameters", [])
    filled = re.sub(r"\{account\}", "marka-sms", path)
    filled = re.sub(r"\{\w+\}", "1", filled)
    for parameter in asked:
        name = parameter["name"]
        if parameter["in"] == "path":
            for word in WRONG_WORDS:
                yield name, {"url": path.replace(f"{{{name}}}", quote(word, safe="") or "%20")}
        elif parameter["in"] == "query":
            yield from ((name, {"url": filled, "params": {name: word}}) for word in WRONG_WORDS)
        else:
            yield from ((name, {"url": filled, "headers": {name: word}}) for word in (CANARY * 50, "a b", ""))
    yield "made-up", {"url": filled, "params": {f"{CANARY}2": CANARY}}
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    for fields in bodies_of(schema, document):
        whole = {name: VALID[name] for name in fields if name in VALID}
        yield from (("", {"url": filled, "json": value}) for value in WRONG_VALUES)
        for name in [*fields, CANARY]:
            yield from ((name, {"url": filled, "json": whole | {name: value}}) for value in WRONG_VALUES)
        for name in fields:
            yield name, {"url": filled, "json": {key: value for key, value in whole.items() if key != name}}


def bodies_of(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[list[str]]:
    """The fields of each object that a body may be."""
    for each in [schema, *schema.get("anyOf", [])]:
        found = each
        if "$ref" in each:
            found = document["components"]["schemas"][each["$ref"].rpartition("/")[2]]
        if "properties" in found:
            yield list(found["properties"])


def test_no_request_is_answered_in_the_words_of_a_library(
    api: Api, operations: list[tuple[str, str, Mapping[str, Any]]]
) -> None:
    """Every parameter and field of every operation, given wrongly in many ways."""
    document = api.get("/openapi.json")
    refused: dict[str, int] = {}
    for method, path, operation in operations:
        for field, request in requests_of(method, path, operation, document):
            body: dict[str, Any] = {"content": json.dumps(request.pop("json"))} if "json" in request else {}
            answer = api.client.request(method.upper(), **request, **body)
            if answer.status_code < 400 or (answer.status_code, path) == (503, "/readyz"):
                continue
            assert answer.status_code < 500, (path, field, answer.text)
            refused[f"{method} {path}"] = refused.get(f"{method} {path}", 0) + (answer.status_code == 422)
            assert_ours(answer, f"{method} {path} {field}")
    without = {where for where, many in refused.items() if not many}
    # Both take bytes, and read their addresses themselves.
    assert [where for where in without if not where.startswith(("post /v1/reports", "post /callbacks"))] == []
    assert sum(refused.values()) > 300
    late = ("get /v1/events", "get /v1/summary", "get /v1/tracked", "delete /v1/tracked", "post /v1/deliveries/lookup")
    assert all(refused[where] for where in late)


def assert_ours(answer: httpx.Response, where: str) -> None:
    """A problem document without a foreign word or the value; with 422 each field has its sentence."""
    told = answer.json()
    assert answer.headers["content-type"] == "application/problem+json", where
    for mistake in told.get("errors", []):
        # A name that the caller made up is repeated, so that it is found.
        assert (CANARY in mistake["field"].removesuffix(f"{CANARY}2").removesuffix(CANARY)) is False, where
        assert not THEIRS.search(mistake["problem"]), (where, mistake)
        assert CANARY not in mistake["problem"], (where, mistake)
        assert NOT_VALID not in mistake["problem"], (where, mistake)
        assert mistake["field"].partition(".")[0] in {"query", "body", "path", "header"}, (where, mistake)
    assert not THEIRS.search(told["detail"]), (where, told)


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        (
            "/v1/deliveries?stat=open",
            (
                "query.stat is not known here: known are account, status, recipient, client_ref, provider_key,"
                " parent_key, granularity, since, until, cursor, limit"
            ),
        ),
        ("/v1/deliveries?since=yesterday", f"query.since {validation_messages.TIME}"),
        ("/v1/deliveries?since=2026-05-01T10:00:00", f"query.since {validation_messages.TIME}"),
        ("/v1/deliveries?limit=many", "query.limit is no whole number: give one such as 100"),
        ("/v1/deliveries?limit=0", "query.limit is too small: give at least 1"),
        ("/v1/deliveries?account=A", "query.account is no account id: give a-z, 0-9 and -, at most 100 of them"),
        ("/v1/changes?wait=nan", "query.wait is no number: give one such as 2.5"),
        ("/v1/polls?state=ready", "query.state is none of the known words: give"),
        (
            "/v1/events?who=me",
            "query.who is not known here: known are account, action, actor, recipient, since, cursor, limit",
        ),
        ("/v1/events?action=seen", "query.action is none of the known words: give account.created, account.changed"),
        ("/v1/events?since=yesterday", f"query.since {validation_messages.TIME}"),
        ("/v1/events?actor=", "query.actor is empty: give a value, or leave it out"),
        ("/v1/summary?since=now", f"query.since {validation_messages.TIME}"),
        ("/v1/tracked?state=ajar", "query.state is none of the known words: give open or closed"),
        ("/v1/polls/x", "path.poll_id is no whole number: give one such as 100"),
    ],
)
def test_the_sentence_names_the_field_and_what_would_be_right(api: Api, path: str, detail: str) -> None:
    """One place, one sentence."""
    answer = api.client.get(path)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"The request is wrong: {detail}")


def test_an_object_within_the_body_names_its_own_fields(api: Api) -> None:
    """Known names are those of the object that holds the wrong one; a list is named by its place."""
    body = {"account": "marka-sms", "ids": [{"kind": "number", "value": "1"}, {"kind": "number", CANARY: 2}]}
    errors = api.client.post("/v1/polls", json=body).json()["errors"]
    assert errors == [
        {"field": "body.ids.1.value", "problem": "is missing: it must be given"},
        {"field": f"body.ids.1.{CANARY}", "problem": "is not known here: known are kind, value"},
    ]
    [error] = api.client.post("/v1/polls", json={"account": "marka-sms", "first": "2026-05-01", "x": 1}).json()[
        "errors"
    ]
    assert error["problem"] == "is not known here: known are account, from, to, ids"


def test_no_sentence_of_msgspec_is_left(api: Api) -> None:
    """Each item of a registration, wrong in every field."""
    for field in Item.__struct_fields__:
        for value in WRONG_VALUES:
            item = {"kind": "number", "value": "1:+905301234567", field: value}
            answer = api.client.post(
                "/v1/tracked", content=msgspec.json.encode({"account": "marka-sms", "ids": [item]})
            )
            for result in answer.json().get("results", []):
                assert not THEIRS.search(result["problem"] or ""), (field, value, result)
                assert NOT_VALID not in (result["problem"] or ""), (field, value, result)


def test_the_document_promises_no_error_that_is_never_sent(api: Api) -> None:
    """FastAPI's own schemas of mistakes are not in it."""
    text = api.client.get("/openapi.json").text
    assert "HTTPValidationError" not in text
    assert '"ValidationError"' not in text
