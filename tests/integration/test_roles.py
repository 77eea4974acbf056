"""Every route and every button with every role, and what each role sees of people's numbers and other accounts."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from database_fixtures import add_account
from fastapi.routing import APIRoute
from pydantic import SecretStr
from sqlalchemy import Engine, text
from task_api import TOKEN, running, runtime_on

from ulak.api.app import make_api
from ulak.api.authorization import Needs, roles_of
from ulak.api.pages import routes
from ulak.core import clock
from ulak.core.settings import load_settings
from ulak.models.access import Role
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.tokens import create_token
from ulak.models.vocabulary import Granularity, Status
from ulak.tasks.messages import Message

NUMBER, NATIONAL = "+905301234567", "5301234567"
ASKED = datetime(2026, 5, 1, 12, tzinfo=UTC)
RANK = {"nobody": -1, "read": 0, "support": 1, "operate": 2, "admin": 3}
WHO = (*RANK, "elsewhere")
"""`elsewhere`: an administrator of another account alone."""


@dataclass
class House:
    """A running API with its pages, two accounts with a delivery each, and a token for each role."""

    url: str
    engine: Engine
    tokens: dict[str, str]
    deliveries: dict[str, int]
    poll: int
    app: Any

    def api(self, who: str, method: str, path: str, **given: Any) -> httpx.Response:
        """One request with the token of a role."""
        headers = {"Authorization": f"Bearer {self.tokens[who]}"} if who in self.tokens else {}
        with httpx.Client(base_url=self.url, headers=headers, timeout=60) as client:
            return client.request(method, path, **given)

    @contextmanager
    def browser(self, who: str) -> Iterator[httpx.Client]:
        """A browser in which this role is logged in."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            mark = form_mark(client.get("/").text)
            if who in self.tokens:
                assert client.post("/login", data={"form_mark": mark, "token": self.tokens[who]}).status_code == 303
            yield client


def form_mark(page: str) -> str:
    """The mark of the page's forms."""
    found = re.search(r'name="form_mark" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


@pytest.fixture
def house(migrated_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """With something behind every button: a pause, something given up, a poll that runs."""
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))
    with transaction(migrated_database) as connection:
        for account in ("kampanya", "otp"):
            add_account(connection, account)
            report = DeliveryReport(
                granularity=Granularity.MESSAGE,
                provider_key=f"771:{NATIONAL}",
                status=Status.DELIVERED,
                provider_status="1",
                provider_error=f"to {NUMBER}",
                recipient=NUMBER,
                client_ref=f"siparis-{account}",
                extra={"gsm": NATIONAL, "operator": "A"},
                statement={"durum": "1", "gsm": f"0{NATIONAL}"},
            )
            upsert(connection, account, "vairo", [report], asked_at=ASKED)
        found = connection.execute(text("SELECT account_id, id FROM delivery_status"))
        deliveries = {row.account_id: row.id for row in found}
        tokens = {role.value: create_token(connection, role.value, role=role) for role in Role}
        tokens["elsewhere"] = create_token(connection, "elsewhere", accounts=["otp"])
        connection.execute(text("UPDATE accounts SET paused_until = now() + interval '1 day', pause_reason = 'x'"))
        poll = connection.execute(
            text(
                "INSERT INTO polls (account_id, kind, trigger, state, planned_at)"
                " VALUES ('kampanya', 'on_demand', 'api', 'running', now()) RETURNING id"
            )
        ).scalar_one()
        connection.execute(
            text(
                "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, finished_at, label,"
                " last_error) VALUES (:poll, 'kampanya', 'page', '{\"window\": [\"2026-05-01\", \"2026-05-01\"]}', 'x',"
                " 'dead', now(), 'page', 'RequestIsWrong: x')"
            ),
            {"poll": poll},
        )
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    runtime = runtime_on(migrated_database)
    sent: list[Message] = []
    app = make_api(runtime, token=TOKEN, publish=sent.append, settings=settings)
    routes.add_pages(app, runtime, settings)
    with running(app) as url:
        yield House(url, migrated_database, tokens, deliveries, poll, app)
    runtime.door.close()


# ------------------------------------------------------------------------------------------------ the task API

API: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("GET", "/v1/accounts"): ("read", {}),
    ("POST", "/v1/accounts/{account}/pause"): ("operate", {"json": {"reason": "x"}}),
    ("POST", "/v1/accounts/{account}/resume"): ("operate", {}),
    ("GET", "/v1/polls"): ("read", {}),
    ("POST", "/v1/polls"): ("operate", {"json": {"account": "kampanya"}}),
    ("GET", "/v1/polls/{poll_id}"): ("read", {}),
    ("DELETE", "/v1/polls/{poll_id}"): ("operate", {}),
    ("POST", "/v1/tracked"): (
        "operate",
        {"json": {"account": "kampanya", "ids": [{"kind": "number", "value": f"9:{NATIONAL}"}]}},
    ),
    ("GET", "/v1/tracked"): ("read", {}),
    ("DELETE", "/v1/tracked"): (
        "operate",
        {"params": {"account": "kampanya", "kind": "number", "value": f"9:{NATIONAL}"}},
    ),
    ("POST", "/v1/tracked/untrack"): (
        "operate",
        {"json": {"account": "kampanya", "ids": [{"kind": "number", "value": f"9:{NATIONAL}"}]}},
    ),
    ("GET", "/v1/deliveries"): ("read", {}),
    ("POST", "/v1/deliveries/lookup"): ("read", {"json": {"provider_keys": ["771"]}}),
    ("GET", "/v1/summary"): ("read", {}),
    ("GET", "/v1/statistics"): ("read", {}),
    ("GET", "/v1/deliveries/{delivery_id}"): ("read", {}),
    ("POST", "/v1/deliveries/{delivery_id}/reveal"): ("support", {}),
    ("GET", "/v1/changes"): ("read", {}),
    ("POST", "/v1/reports/{account}"): ("operate", {"content": b"{}", "headers": {"Content-Type": "application/json"}}),
    ("GET", "/v1/events"): ("admin", {}),
}
"""The least role of every operation, and a request."""
OF_ACCOUNT = "{account}", "{poll_id}", "{delivery_id}"


@pytest.mark.parametrize("who", WHO)
def test_every_route_of_the_api_with_every_role(house: House, who: str) -> None:
    """Allowed by its role, 403 below it, 401 without a token; 404 for what belongs to another account."""
    documented = {
        (method.upper(), path): operation
        for path, operations in house.app.openapi()["paths"].items()
        for method, operation in operations.items()
        if path.startswith("/v1")
    }
    assert documented.keys() == API.keys()
    for (method, path), (least, given) in API.items():
        assert documented[method, path]["x-ulak-role"] == least
        place = path.format(account="kampanya", poll_id=house.poll, delivery_id=house.deliveries["kampanya"])
        headers = given.get("headers", {})
        rest = {name: value for name, value in given.items() if name != "headers"}
        token = {"Authorization": f"Bearer {house.tokens[who]}"} if who in house.tokens else {}
        answer = httpx.request(method, house.url + place, headers=headers | token, timeout=60, **rest)
        is_of_account = any(part in path for part in OF_ACCOUNT) or "kampanya" in json.dumps(rest, default=str)
        if who == "nobody":
            wanted = {401}
        elif who == "elsewhere":
            wanted = {404} if is_of_account else {200}
        else:
            # 409 and 422: allowed, and of no use here (a poll that has ended; an empty reply).
            wanted = {200, 202, 409, 422} if RANK[who] >= RANK[least] else {403}
        assert answer.status_code in wanted, (who, method, path, answer.status_code, answer.text)
        if answer.status_code == 403:
            assert (least in answer.json()["detail"], answer.headers["content-type"]) == (
                True,
                "application/problem+json",
            )


def test_a_route_that_names_no_role_stops_the_process() -> None:
    """It would be open to every token."""
    route = APIRoute("/x", lambda: None)
    with pytest.raises(RuntimeError, match="/x must name one role"):
        list(roles_of([route]))
    assert Needs(Role.ADMIN).role is Role.ADMIN


def test_a_role_that_this_version_does_not_know_opens_nothing(house: House) -> None:
    """As one from a later version would be."""
    with transaction(house.engine) as connection:
        connection.execute(text("UPDATE api_tokens SET role = 'owner' WHERE name = 'admin'"))
    assert house.api("admin", "GET", "/v1/accounts").status_code == 403
    with httpx.Client(base_url=house.url) as client:
        given = {"form_mark": form_mark(client.get("/").text), "token": house.tokens["admin"]}
        assert client.post("/login", data=given).status_code == 401


# ------------------------------------------------------------------------------------------------------ numbers


def holds_number(answer: httpx.Response) -> bool:
    """Whether the number, in any spelling of the fixture, is to be read."""
    return NATIONAL in answer.text


@pytest.mark.parametrize("who", ["read", "support", "operate", "admin"])
@pytest.mark.parametrize(
    "path", ["/v1/deliveries", "/v1/deliveries/{id}", "/v1/changes", "/v1/deliveries?client_ref=offen"]
)
def test_numbers_are_masked_below_operate_in_every_field(house: House, who: str, path: str) -> None:
    """Key, error, provider's fields and statement hold it as well; the rest can be read."""
    with transaction(house.engine) as connection:
        connection.execute(
            text(
                "INSERT INTO tracked_ids (account_id, id_kind, value, origin, client_ref, recipient, sent_at,"
                f" valid_until, next_check_at) VALUES ('kampanya', 'number', '9:{NATIONAL}', 'sender', 'offen',"
                f" '{NUMBER}', now(), now(), now())"
            )
        )
    answer = house.api(who, "GET", path.format(id=house.deliveries["kampanya"]))
    end = clock.boot() + 40
    # The feed waits for every transaction of the cluster, those of other tests too.
    while answer.status_code == 200 and '"changes":[]' in answer.text and clock.boot() < end:
        answer = house.api(who, "GET", path, params={"wait": 1})
    assert answer.status_code == 200, answer.text
    assert holds_number(answer) == (RANK[who] >= RANK["operate"]), answer.text
    if "client_ref" not in path:
        assert "siparis-kampanya" in answer.text
        if who == "read":
            assert "+90•••••••67" in answer.text


@pytest.mark.parametrize("who", ["read", "support", "operate", "elsewhere"])
def test_looking_for_a_person_takes_support(house: House, who: str) -> None:
    """Or numbers could be guessed one by one against masked lists. Support finds the row, masked."""
    answer = house.api(who, "GET", "/v1/deliveries", params={"recipient": "0530 123 45 67"})
    if who == "read":
        assert answer.status_code == 403
        return
    found = [row["account_id"] for row in answer.json()["deliveries"]]
    assert found == (["otp"] if who == "elsewhere" else ["kampanya", "otp"])
    assert holds_number(answer) == (who in {"operate", "elsewhere"})


def test_support_reveals_one_number_at_a_time_through_the_api(house: House) -> None:
    """The whole delivery, as administrators see it."""
    path = f"/v1/deliveries/{house.deliveries['kampanya']}"
    masked, shown = house.api("support", "GET", path), house.api("support", "POST", f"{path}/reveal")
    assert (holds_number(masked), shown.json()) == (False, house.api("admin", "GET", path).json())


def test_a_mixed_role_masks_row_by_row(house: House) -> None:
    """Operate for one account and nothing for the other: nothing of the other is there at all."""
    with transaction(house.engine) as connection:
        connection.execute(text("UPDATE api_tokens SET accounts = '{kampanya}' WHERE name IN ('operate', 'read')"))
    rows = house.api("operate", "GET", "/v1/deliveries").json()["deliveries"]
    assert [row["account_id"] for row in rows] == ["kampanya"]
    assert [each["id"] for each in house.api("read", "GET", "/v1/accounts").json()["accounts"]] == ["kampanya"]
    assert [each["account"] for each in house.api("read", "GET", "/v1/polls").json()["polls"]] == ["kampanya"]
    for path in ("/v1/deliveries?account=otp", "/v1/polls?account=otp", f"/v1/deliveries/{house.deliveries['otp']}"):
        assert house.api("read", "GET", path).status_code == 404


def test_the_feed_of_a_limited_token_passes_over_the_rest_and_loses_nothing(house: House) -> None:
    """Pages that hold nothing for it are empty and say that there is more; erasures name nobody and come to all.

    Removals name their account.
    """
    with transaction(house.engine) as connection:
        connection.execute(text("UPDATE api_tokens SET accounts = '{otp}' WHERE name = 'read'"))
        connection.execute(text("INSERT INTO delivery_removals (account_id, before) VALUES ('kampanya', now())"))
    with transaction(house.engine) as connection:
        connection.execute(text("INSERT INTO delivery_removals (account_id, before) VALUES ('otp', '2020-01-01Z')"))
    seen: list[str] = []
    pages: list[bool] = []
    query: dict[str, Any] = {"limit": 1, "wait": 1}
    end = clock.boot() + 40
    while pages.count(True) < 4 and clock.boot() < end:
        feed = house.api("read", "GET", "/v1/changes", params=query).json()
        seen += [
            entry["removed"]["account"] if entry["op"] == "remove" else entry["delivery"]["account_id"]
            for entry in feed["changes"]
        ]
        pages.append(feed["more"])
        query["cursor"] = feed["cursor"]
    assert (seen, pages.count(True)) == (["otp", "otp"], 4)


# -------------------------------------------------------------------------------------------------- status page

PAGES: dict[tuple[str, str], str] = {
    ("GET", "/"): "read",
    ("GET", "/accounts/{account}"): "read",
    ("GET", "/polls"): "read",
    ("GET", "/results"): "read",
    ("GET", "/deliveries"): "read",
    ("GET", "/deliveries.csv"): "read",
    ("POST", "/deliveries"): "read",
    ("GET", "/deliveries/{delivery_id:int}"): "read",
    ("POST", "/deliveries/{delivery_id:int}/reveal"): "support",
    ("POST", "/accounts/{account}/poll"): "operate",
    ("POST", "/accounts/{account}/pause"): "operate",
    ("POST", "/accounts/{account}/resume"): "operate",
    ("POST", "/accounts/{account}/retry"): "operate",
    ("POST", "/accounts/{account}/discard"): "operate",
    ("POST", "/accounts/{account}/quarantine/retry"): "operate",
    ("POST", "/accounts/{account}/quarantine/discard"): "operate",
}
OPEN = {
    ("POST", "/login"),
    ("POST", "/logout"),
    ("POST", "/language"),
    ("GET", "/login/sso"),
    ("GET", "/login/sso/callback"),
}


@pytest.mark.parametrize("who", WHO)
def test_every_route_of_the_page_with_every_role(house: House, who: str) -> None:
    """A page or a redirect where the role does, 403 below it, 404 for another account, the log-in form for nobody."""
    known = {
        (method, route.path)
        for part in routes.PARTS
        for route in part.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert known == PAGES.keys() | OPEN
    with house.browser(who) as client:
        mark = form_mark(client.get("/").text)
        for (method, path), least in PAGES.items():
            place = path.replace(":int", "").format(account="kampanya", delivery_id=house.deliveries["kampanya"])
            data = {"form_mark": mark, "reason": "x"} if method == "POST" else None
            answer = client.request(method, place, data=data)
            if who == "nobody":
                assert (answer.status_code, "kampanya" in answer.text.replace(place, "")) in {
                    (200, False),
                    (401, False),
                }
                continue
            if who == "elsewhere":
                wanted = {404} if "{" in path else {200, 303}
            else:
                wanted = {200, 303} if RANK[who] >= RANK[least] else {403}
            assert answer.status_code in wanted, (who, method, path, answer.status_code)


BUTTONS = {
    "read": {"/deliveries"},
    "support": {"/deliveries", "/deliveries/{id}/reveal"},
    "operate": {
        "/deliveries",
        "/deliveries/{id}/reveal",
        *(f"/accounts/kampanya/{verb}" for verb in ("poll", "pause", "resume", "retry", "discard")),
        *(f"/accounts/otp/{verb}" for verb in ("poll", "pause", "resume")),
    },
    "elsewhere": {
        "/deliveries",
        "/deliveries/{id}/reveal",
        *(f"/accounts/otp/{verb}" for verb in ("poll", "pause", "resume")),
    },
}
BUTTONS["admin"] = BUTTONS["operate"]


@pytest.mark.parametrize("who", sorted(BUTTONS))
def test_every_button_with_every_role(house: House, who: str) -> None:
    """What a role may not do is not offered, and whatever is offered may be done."""
    offered: set[str] = set()
    with house.browser(who) as client:
        paths = ["/", "/results", "/polls", "/deliveries", "/accounts/kampanya", "/accounts/otp"]
        paths += [f"/deliveries/{each}" for each in house.deliveries.values()]
        for path in paths:
            page = client.get(path)
            forms = re.findall(r'<form method="post" action="([^"]+)"(.*?)</form>', page.text, re.DOTALL)
            for action, body in forms:
                if action not in {"/language", "/logout"}:
                    offered.add(re.sub(r"/deliveries/\d+/", "/deliveries/{id}/", action))
                    names = dict(re.findall(r'name="([a-z_]+)" value="([^"]*)"', body))
                    answer = client.post(action, data={name: unescape(value) for name, value in names.items()})
                    assert answer.status_code in {200, 303}, (who, action, answer.status_code)
            assert ('id="recipient"' in page.text) == (path == "/deliveries" and who != "read")
            assert (">Flower</a>" in page.text) == (who in {"admin", "elsewhere"})
    assert offered == BUTTONS[who]


@pytest.mark.parametrize("who", ["read", "support", "admin"])
def test_the_page_shows_a_number_only_where_somebody_asks_for_it(house: House, who: str) -> None:
    """Masked for administrators too, in every field; the button shows that one."""
    path = f"/deliveries/{house.deliveries['kampanya']}"
    with house.browser(who) as client:
        page = client.get(path)
        assert (holds_number(page), "+90•••••••67" in page.text) == (False, True)
        shown = client.post(f"{path}/reveal", data={"form_mark": form_mark(page.text)})
        assert (shown.status_code, holds_number(shown)) == ((403, False) if who == "read" else (200, True))
        assert shown.headers["cache-control"] == "no-store"
        assert client.post(f"{path}/reveal", data={"form_mark": "forged"}).status_code == 403


def test_a_link_to_a_search_for_a_person_opens_for_support_alone(house: House) -> None:
    """Who reads may not follow a colleague's search, nor look by id for a number; keys and references are found."""
    with house.browser("support") as client:
        mark = form_mark(client.get("/deliveries").text)
        found = client.post("/deliveries", data={"form_mark": mark, "recipient": NUMBER}).headers["location"]
        assert client.get(found).text.count("/deliveries/") >= 2
    with house.browser("read") as client:
        assert client.get(found).status_code == 403
        mark = form_mark(client.get("/deliveries").text)
        for word, many in ((NUMBER, 0), (NATIONAL, 0), (f"771:{NATIONAL}", 0), ("siparis-otp", 1)):
            place = client.post("/deliveries", data={"form_mark": mark, "id": word}).headers["location"]
            assert len(re.findall(r'<a href="/deliveries/\d+"', client.get(place).text)) == many, word


def test_alarms_of_other_accounts_and_of_the_whole_are_not_shown(house: House) -> None:
    """Nor is the address of another account's page."""
    with transaction(house.engine) as connection:
        connection.execute(text("UPDATE accounts SET paused_by = 'operator', pause_reason = 'reason of ' || id"))
    with house.browser("elsewhere") as client:
        page = client.get("/").text
    assert ("reason of otp" in page, "reason of kampanya" in page, "kampanya" in page) == (True, False, False)


def test_a_limited_visitor_reads_when_nobody_works_for_the_own_accounts(house: House) -> None:
    """The alarm names those alone, since when they wait; without it, what is well are the visitor's accounts."""
    with transaction(house.engine) as connection:
        connection.execute(text("UPDATE accounts SET paused_until = NULL, pause_reason = NULL"))
        connection.execute(
            text(
                "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at)"
                " SELECT id, 'number', '1:2', 'sender', now(), now() + interval '1 day',"
                " now() - CASE id WHEN 'otp' THEN 5 ELSE 9 END * interval '1 minute' FROM accounts"
            )
        )
    with house.browser("elsewhere") as limited, house.browser("read") as reader:
        everything = plain(reader.get("/").text)
        assert re.search(
            "Polling has stalled: requests of (kampanya, otp|otp, kampanya) were due 9 min ago", everything
        )
        page = plain(limited.get("/").text)
        assert "Polling has stalled: requests of otp were due 5 min ago" in page
        assert "kampanya" not in page
        for change, words in (
            ("UPDATE tracked_ids SET next_check_at = now() + interval '1 hour' WHERE account_id = 'otp'",
             "Everything is working. Every account that you have access to is being polled"),
            ("UPDATE accounts SET enabled = false WHERE id = 'otp'", "No account is configured, so nothing is polled."),
        ):  # fmt: skip
            with transaction(house.engine) as connection:
                connection.execute(text(change))
            house.app.state.pages.overviews.forget()
            page = plain(limited.get("/").text)
            assert (words in page, "kampanya" in page) == (True, False)
            assert "Polling has stalled: requests of kampanya" in plain(reader.get("/").text)


def plain(page: str) -> str:
    """The words of a page."""
    return " ".join(unescape(re.sub(r"<[^>]+>", "", page)).split())


def test_time_zones_do_not_wait_for_a_slow_look(house: House) -> None:
    """A look that waits for the database keeps no page waiting that needs no look."""
    overviews = house.app.state.pages.overviews
    with ThreadPoolExecutor(2) as pool:
        with transaction(house.engine) as connection:
            connection.execute(text("LOCK TABLE quarantine IN ACCESS EXCLUSIVE MODE"))
            look = pool.submit(overviews.look)
            ends = clock.boot() + 60
            while not _waits_for_a_lock(house.engine):
                assert clock.boot() < ends, "The look has not begun."
            assert set(pool.submit(overviews.zones).result(timeout=20)) == {"kampanya", "otp"}
            assert not look.done()
        assert look.result(timeout=60).accounts


def _waits_for_a_lock(engine: Engine) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'quarantine'::regclass"
    with engine.connect() as connection:
        return bool(connection.execute(text(query)).scalar_one())


def test_a_session_has_the_role_that_its_token_has_now(house: House) -> None:
    """A role that is changed holds at once; nothing of it is in the cookie."""
    with house.browser("operate") as client:
        assert 'id="pause"' in client.get("/accounts/kampanya").text
        with transaction(house.engine) as connection:
            connection.execute(text("UPDATE api_tokens SET role = 'read' WHERE name = 'operate'"))
        assert 'id="pause"' not in client.get("/accounts/kampanya").text
