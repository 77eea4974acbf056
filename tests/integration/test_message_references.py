"""References by the provider's key (`order`, `message`), for every provider: attached before or after the report."""

import pytest
from command_line import Ulak, ulak
from driving import make_runtime, scalar
from ledger_acts import add_account, plan
from sqlalchemy import Engine, text

from ulak.models.references import upsert_shared
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.registry import ADAPTERS

__all__ = ["ulak"]


def test_every_provider_takes_references_by_key() -> None:
    """Each kind is the word for a granularity, and none is one that is polled by registering it."""
    for name, adapter in ADAPTERS.items():
        kinds = adapter.record.reference_kinds
        assert Granularity.MESSAGE in kinds.values(), name
        assert {kind: granularity.value for kind, granularity in kinds.items()} == {kind: kind for kind in kinds}
        assert not set(kinds) & set(adapter.record.id_kinds), name


def report(granularity: Granularity, key: str, parent: str | None = None) -> DeliveryReport:
    """A statement that names no reference."""
    return DeliveryReport(
        granularity=granularity, provider_key=key, parent_key=parent, status=Status.DELIVERED, provider_status="x"
    )


def write(engine: Engine, account_id: str, provider: str, *reports: DeliveryReport) -> None:
    """Store reports as a callback does."""
    kinds = ADAPTERS[provider].record.reference_kinds
    with engine.begin() as connection:
        upsert_shared(connection, account_id, provider, reports, kinds, asked_at=None)


@pytest.mark.parametrize("provider", ["bip", "iletimerkezi", "organik", "vairo"])
@pytest.mark.parametrize("is_first", [True, False], ids=["before the report", "after it"])
def test_a_reference_goes_to_the_message_or_to_all_of_an_order(
    ulak: Ulak, migrated_database: Engine, provider: str, is_first: bool
) -> None:
    """A message's own key is no order's: equal ones do not get each other's reference. Nothing is polled for it."""
    account_id = add_account(migrated_database, provider=provider)
    reports = (
        report(Granularity.ORDER, "7"),
        report(Granularity.MESSAGE, "71", "7"),
        report(Granularity.MESSAGE, "72", "71"),
        report(Granularity.MESSAGE, "7", "8"),
    )
    if not is_first:
        write(migrated_database, account_id, provider, *reports)
    for words in (("order=7", "--ref", "inv"), ("message=71", "--ref", "one"), ("message=7", "--ref", "own")):
        assert ulak("track", account_id, *words).code == 0
    if is_first:
        write(migrated_database, account_id, provider, *reports)
    with migrated_database.connect() as connection:
        query = "SELECT granularity || ' ' || provider_key AS what, client_ref FROM delivery_status"
        found = {row.what: row.client_ref for row in connection.execute(text(query))}
    # A reference by the message's own key goes before its order's; one that is there stays.
    first = "one" if is_first else "inv"
    assert found == {"order 7": "inv", "message 71": first, "message 72": None, "message 7": "own"}
    runtime = make_runtime(migrated_database, resolve=lambda _: "secret")
    if provider != "iletimerkezi":
        assert plan(runtime, account_id) == []
    assert scalar(migrated_database, "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL") == 0
