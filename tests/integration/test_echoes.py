"""A provider that repeats our request in its answers puts no credential into the database."""

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from api_server import serving
from driving import Driver, make_runtime, scalar
from hypothesis import given
from hypothesis import strategies as st
from ledger_acts import add_account, add_ids
from sqlalchemy import Engine, text
from tiny_provider import Reply, Request, TinyProvider, vairo_reply

from ulak.api.app import make_api
from ulak.models.database import transaction
from ulak.models.report import DeliveryReport
from ulak.models.tables import metadata
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.credential_echoes import secrets_of, without_echoes
from ulak.providers.registry import ADAPTERS
from ulak.tasks.runtime import Runtime

KEY = "k4n4ry-0123456789-abcdef"


def everything(engine: Engine) -> str:
    """Every row of every table as text."""
    with engine.connect() as connection:
        return "\n".join(
            str(row)
            for table in metadata.sorted_tables
            for (row,) in connection.execute(text(f"SELECT t::text FROM {table.name} t"))
        )


def runtime_for(engine: Engine) -> Runtime:
    """Each credential has its reference's name within it, so that all can be told apart."""
    return make_runtime(engine, resolve=lambda reference: f"{KEY}-{reference}")


def echoed(reference: str) -> str:
    """What such a provider says."""
    return f"{KEY}-{reference} in {b64encode(f'u:{KEY}-{reference}'.encode()).decode()}"


def vairo(request: Request) -> Reply:
    """A report whose words repeat the key."""
    reply = json.loads(vairo_reply(request, "DELIVRD").body)
    reply["aciklama"] |= {"durum_gonderim": echoed("env:KEY"), "durum_iade": echoed("env:KEY"), "mesaj_boy": "1"}
    return Reply(json.dumps(reply).encode())


def organik(request: Request) -> Reply:
    """A report whose other fields do."""
    key = echoed("env:KEY")
    row = {"gsm": 905321230000, "transaction_id": 880, "gsm_track_id": 41, "status": 2, "errorcode": key,
           "start_date": key, "credit_amount": key, "is_foreign_gsm": key}  # fmt: skip
    return Reply(json.dumps({"response": {"result": True, "data": [row]}}).encode())


def in_two_bytes(request: Request) -> Reply:
    """The same in UTF-16, which shows by its zeros: every byte is one of ASCII, and no word is in the body as it is."""
    return Reply(organik(request).body.decode().encode("utf-16-le"))


@pytest.mark.parametrize(
    ("provider", "answer", "ident"),
    [
        ("vairo", vairo, ("number", "771:+905321230000")),
        ("organik", organik, ("transaction", "880")),
        ("organik", in_two_bytes, ("transaction", "880")),
    ],
)
def test_a_poll_stores_no_echoed_credential(
    migrated_database: Engine, provider: str, answer: Callable[[Request], Reply], ident: tuple[str, str]
) -> None:
    """The report is stored, in every table and column without the key."""
    runtime = runtime_for(migrated_database)
    with TinyProvider(answer) as tiny:
        account_id = add_account(
            runtime.engine,
            provider=provider,
            base_url=tiny.address("e"),
            requests=50,
            options={"deadline_seconds": 20.0},
        )
        with transaction(runtime.engine) as connection:
            connection.execute(text('UPDATE accounts SET credentials = \'{"api_key": "env:KEY"}\''))
        add_ids(runtime.engine, account_id, [ident[1]], kind=ident[0])
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: scalar(runtime.engine, "SELECT count(*) FROM observations") != 0, seconds=60)
    shown = everything(runtime.engine)
    assert "***" in shown
    assert KEY not in shown
    assert b64encode(KEY.encode()).decode()[:20] not in shown


NOTICE = {"type": "R", "sendtime": "18.05.2018 16:11:58.633 +0300", "report": {"reportid": "08oyS-9", "reporttype": 0}}


def test_a_push_and_a_send_reply_store_none_either(migrated_database: Engine) -> None:
    """What is pushed or handed over goes the same way."""
    runtime = runtime_for(migrated_database)
    references = {"callback_user": "env:USER", "callback_password": "env:KEY"}
    account_id = add_account(runtime.engine, provider="bip")
    with transaction(runtime.engine) as connection:
        connection.execute(
            text("UPDATE accounts SET credentials = CAST(:given AS jsonb)"), {"given": json.dumps(references)}
        )
    notice: dict[str, Any] = {**NOTICE, "msgid": echoed("env:KEY"), "txnid": "t-1", "sender": "905321234567"}
    notice["report"] = {**NOTICE["report"], "reporttype": echoed("env:KEY")}  # type: ignore[dict-item]
    with serving(make_api(runtime, token="t" * 30)) as server:
        login = f"{KEY}-env:USER:{KEY}-env:KEY"
        assert server.ask("POST", f"/callbacks/bip/{account_id}", notice, auth=login).status == 200
    shown = everything(runtime.engine)
    assert scalar(runtime.engine, "SELECT count(*) FROM observations") == 1
    assert "***" in shown
    assert f"{KEY}-env:KEY" not in shown


def report(**fields: Any) -> DeliveryReport:
    """A statement."""
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key="m-1",
        status=Status.DELIVERED,
        **{"provider_status": "1", **fields},
    )


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_every_secret_of_every_provider_is_looked_for(name: str) -> None:
    """All credentials but those that only name a user, and what is derived of them; short ones are mere words."""
    record = ADAPTERS[name].record
    for names in record.credentials:
        credentials = {each: f"{each}-{KEY}" for each in (*names, *record.optional_credentials)}
        found = secrets_of(record, credentials)
        assert {value for each, value in credentials.items() if each not in record.user_names} <= found
        assert not {credentials[each] for each in record.user_names if each in credentials} & found
        if record.derived_secret is not None:
            assert record.derived_secret(credentials) in found
        assert secrets_of(record, dict.fromkeys(names, "short")) <= {
            "" if record.derived_secret is None else record.derived_secret(dict.fromkeys(names, "short"))
        }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), json_values), st.text(min_size=8).filter(lambda text: "*" not in text))
def test_no_depth_hides_an_echo_and_nothing_else_is_changed(statement: dict[str, Any], secret: str) -> None:
    """Law: with the secret anywhere it is masked; without it the report is the same object; twice is once."""
    plain = report(statement=statement)
    if secret not in json.dumps(statement, ensure_ascii=False) and secret not in str(statement):
        assert without_echoes([plain], frozenset({secret}))[0] == plain
    hidden = report(
        statement={"a": [{"b": f"x{secret}y"}], f"k{secret}": 1}, extra={"sender": secret}, provider_status=secret,
        provider_error=secret,
    )  # fmt: skip
    [shown] = without_echoes([hidden], frozenset({secret}))
    assert secret not in str(list(shown.statement["a"])) + str([*shown.statement]) + str(shown.extra)
    assert (shown.extra, shown.provider_status, shown.provider_error) == ({"sender": "***"}, "***", "***")
    assert without_echoes([shown], frozenset({secret}))[0] == shown
    assert shown.provider_key == "m-1"
