"""The OpenAPI document, and the API asked whatever it says may be asked."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from database_fixtures import add_account
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from task_api import TOKEN, Api, api

from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.meanings import COLUMNS, GRANULARITIES, REASONS, STATUSES
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status

__all__ = ["api"]

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def bounded(examples: int, **more: Any) -> settings:
    """So many examples of each operation, none kept."""
    return settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
        **more,
    )


def test_every_operation_is_documented(api: Api) -> None:
    """A summary, a description and the problem document of every error; the bearer scheme under /v1."""
    document = api.get("/openapi.json")
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            if path.startswith("/v1"):
                assert operation["security"] == [{"HTTPBearer": []}], where
                assert {"401", "413", "422", "503"} <= set(operation["responses"]), where
                for status, answer in operation["responses"].items():
                    form = "application/json" if status.startswith("2") else "application/problem+json"
                    assert list(answer["content"]) == [form], (where, status)


def test_every_field_of_a_delivery_is_described_as_the_column_is(api: Api) -> None:
    """By the same sentence; the words that a field may hold each with their meaning."""
    schemas: dict[str, Any] = api.get("/openapi.json")["components"]["schemas"]
    for name in ("Delivery", "ExplainedDelivery"):
        described = {field: about.get("description", "") for field, about in schemas[name]["properties"].items()}
        assert set(COLUMNS) - described.keys() == {"changed_in"}
        assert [field for field, said in described.items() if not said] == []
        assert [field for field in described.keys() & COLUMNS.keys() if COLUMNS[field] not in described[field]] == []
        listed: dict[str, Any] = {"status": STATUSES, "reason": REASONS, "granularity": GRANULARITIES}
        for field, words in listed.items():
            assert [word for word, said in words.items() if f"- `{word}`: {said}" not in described[field]] == []


def test_the_interactive_document_asks_no_other_host(api: Api) -> None:
    """The page names only files of its own, all there, and its policy allows no other host and no script within it."""
    page = api.client.get("/docs")
    assert page.status_code == 200
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert [urlsplit(each).path for each in named] == [
        "docs/ulak.svg",
        "docs/swagger-ui.css",
        "docs/swagger-ui-bundle.js",
        "docs/manual.js",
        "openapi.json",
    ]
    assert re.findall(r"<script(?! src=)|<style|https?:|//", page.text) == []
    policy = page.headers["content-security-policy"].split("; ")
    assert policy[:2] == ["default-src 'self'", "img-src 'self' data:"]
    assert "unsafe" not in page.headers["content-security-policy"]
    for path in named:
        file = api.client.get(f"/{path}")
        assert (file.status_code, bool(file.content)) == (200, True), path
    assert "validatorUrl: null" in api.client.get("/docs/manual.js").text
    assert [api.client.get(f"/docs/{path}").status_code for path in ("none.js", "..%2Fmanual.py")] == [404, 404]


@pytest.fixture
def filled(api: Api) -> Api:
    """Something to find behind the first ids."""
    with transaction(api.engine) as connection:
        add_account(connection, "marka-sms")
        add_account(connection, "a", provider="bip")
        report = DeliveryReport(
            granularity=Granularity.MESSAGE, provider_key="k", status=Status.DELIVERED, provider_status="1"
        )
        upsert(connection, "marka-sms", "vairo", [report], asked_at=None)
    for path, body in (("/v1/polls", {"account": "marka-sms"}),):
        assert api.client.post(path, json=body).status_code == 202
    return api


def test_nothing_that_the_document_allows_ends_in_a_server_error(filled: Api) -> None:
    """Generated requests, right and wrong ones: no 5xx, and every answer is as the document says."""
    assert ask_everything(filled, bounded(8, derandomize=True)) > 100


REVIEWED = 3847
"""Cases of the security review, with three seeds."""


@pytest.mark.host
@pytest.mark.timeout(1500)
def test_nor_do_as_many_requests_as_the_review_made(filled: Api) -> None:
    """With its three seeds, until its number is reached: as above, and no answer without the token."""
    asked = 0
    for given_seed in (1, 7, 42):
        asked += ask_everything(filled, bounded(40), given_seed=given_seed)
    assert asked >= REVIEWED


def ask_everything(api: Api, how: settings, *, given_seed: int | None = None) -> int:
    """Every operation in both modes; how many requests were made. Every fortieth is sent without a token, too."""
    schema = schemathesis.openapi.from_dict(api.app.openapi())
    schema.config.update(base_url=str(api.client.base_url).rstrip("/"))
    asked = 0

    def ask(case: Any) -> None:
        nonlocal asked
        asked += 1
        if "wait" in (case.query or {}):
            case.query["wait"] = 0
        case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
        if asked % 40 == 0:
            case.headers.pop("Authorization", None)
            assert case.call(timeout=60).status_code in {400, 401, 404, 405, 413}

    for operation in operations_of(schema):
        for mode in schemathesis.GenerationMode:
            test = given(case=operation.as_strategy(generation_mode=mode))(ask)
            how(test if given_seed is None else seed(given_seed)(test))()
    return asked


def operations_of(schema: Any) -> list[Any]:
    """Every operation under /v1."""
    return [found.ok() for found in schema.include(path_regex="^/v1").get_all_operations()]
