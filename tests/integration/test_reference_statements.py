"""What references by key cost a provider call: nothing but the lock where the account has none."""

from functools import partial
from typing import Any

import psycopg
import pytest
from driving import make_runtime, scalar
from ledger_acts import Held, add_account, execute, plan, run_at_once, vairo_body
from sqlalchemy import Engine, text

from ulak.models.references import share_sql
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.tracking import track

NUMBER = "+905301234567"
SHARE = share_sql("").partition(",")[0]
"""What takes the lock of references, beside that of the list of erased people."""


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret")


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is sent through the driver or through SQLAlchemy."""
    sent: list[str] = []
    given: Any = psycopg.Cursor.execute

    def noted(cursor: Any, query: Any, *rest: Any, **more: Any) -> Any:
        sent.append(str(query))
        return given(cursor, query, *rest, **more)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    return sent


def ask(runtime: Runtime, account_id: str, send: str) -> Held:
    """A number of a send is registered without a reference, and its request is made."""
    track(runtime, account_id, [{"kind": "number", "value": f"{send}:{NUMBER}"}])
    due = "UPDATE tracked_ids SET next_check_at = now() + CASE WHEN value = :v THEN '0' ELSE '1 h' END::interval"
    execute(runtime.engine, f"{due} WHERE closed_at IS NULL", v=f"{send}:{NUMBER}")
    [fetch_id] = plan(runtime, account_id)
    return Held(runtime, fetch_id)


def test_without_references_a_call_makes_no_statement_for_them(runtime: Runtime, statements: list[str]) -> None:
    """The lock is taken with the end of the call, and the look-up of the reports tells that there are none."""
    account_id = add_account(runtime.engine)
    counts: list[tuple[int, int, int]] = []
    for send, registered in (("771", None), ("772", "781"), ("773", None)):
        if registered is not None:
            track(runtime, account_id, [{"kind": "order", "value": registered, "client_ref": "r"}])
        held = ask(runtime, account_id, send)
        statements.clear()
        held.answer(vairo_body(f"{send}:{NUMBER}", "DELIVERED", key=int(send)))
        counts.append(
            (
                sum(SHARE in each for each in statements),
                sum("t.client_ref IS NOT NULL" in each for each in statements),
                sum("AS has_references" in each for each in statements),
            )
        )
    assert counts == [(1, 0, 1), (1, 1, 2), (1, 1, 2)]
    assert scalar(runtime.engine, "SELECT count(*) FROM delivery_status WHERE client_ref IS NOT NULL") == 0


def test_the_first_reference_of_an_account_is_not_missed_by_a_call_that_ends_meanwhile(runtime: Runtime) -> None:
    """Whoever comes first in thirty races, each with an account that had no reference before."""
    engine = runtime.engine
    for _ in range(30):
        account_id = add_account(engine)
        held = ask(runtime, account_id, "771")
        item = {"kind": "order", "value": "771", "client_ref": "inv-771"}
        body = vairo_body(f"771:{NUMBER}", "DELIVERED", key=5)
        run_at_once([partial(held.answer, body), partial(track, runtime, account_id, [item])])
        with engine.connect() as connection:
            query = text("SELECT provider_key, client_ref FROM delivery_status WHERE account_id = :a")
            found = [tuple(row) for row in connection.execute(query, {"a": account_id})]
        assert ("5", "inv-771") in found, found


def test_whether_an_account_has_references_is_read_from_their_index(migrated_database: Engine) -> None:
    """However many ids it has registered."""
    add_account(migrated_database)
    with migrated_database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO tracked_ids (account_id, id_kind, value, client_ref, origin, sent_at, valid_until,"
                " next_check_at)"
                " SELECT id, CASE WHEN n % 2 = 0 THEN 'order' ELSE 'number' END, n::text,"
                " CASE WHEN n % 2 = 1 THEN 'r' END, 'sender', now(), now(), now()"
                " FROM accounts, generate_series(1, 5000) n"
            )
        )
        connection.execute(text("ANALYZE tracked_ids"))
        plan_of = (
            "EXPLAIN SELECT EXISTS (SELECT FROM tracked_ids WHERE account_id = (SELECT id FROM accounts)"
            " AND client_ref IS NOT NULL AND id_kind IN ('message', 'order', 'conversation'))"
        )
        shown = "\n".join(connection.execute(text(plan_of)).scalars())
    assert "ix_tracked_ids_references" in shown
