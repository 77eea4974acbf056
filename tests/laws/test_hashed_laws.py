"""Laws of hashed recipients: one person is one pseudonym, however, how often and in whatever order it is reported."""

from collections import defaultdict
from datetime import timedelta
from typing import Any

import msgspec
from database_fixtures import add_account
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from report_strategies import NOON, reports
from sqlalchemy import Engine
from stored_rows import stored_rows

from ulak.core.time_zones import time_zone
from ulak.models.database import transaction
from ulak.models.deliveries import Key, upsert
from ulak.models.keys import join_key
from ulak.models.merge import fold, observe
from ulak.models.pseudonyms import pseudonym
from ulak.models.rebuild import RebuildResult, rebuild
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Source
from ulak.providers.adapter import Account, Callback
from ulak.providers.iletimerkezi_orders import read_recipients, report_recipients
from ulak.providers.phone_numbers import same_number_spellings
from ulak.providers.pseudonymiser import Pseudonymiser
from ulak.providers.registry import ADAPTERS

KEY = b"the person key of these tests, 32"
NUMBERS = ("+905301234567", "+905309999999")
HIDDEN = {name: Pseudonymiser(adapter.record, lambda text: pseudonym(KEY, text)) for name, adapter in ADAPTERS.items()}
VAIRO = HIDDEN["vairo"]
spelled = st.sampled_from(NUMBERS).flatmap(
    lambda number: st.sampled_from([f"{number[:3]} {number[3:6]} {number[6:]}", *same_number_spellings(number)])
)


@st.composite
def _reports(draw: st.DrawFn) -> DeliveryReport:
    number = draw(st.sampled_from(NUMBERS))
    said = draw(
        reports(Granularity.MESSAGE, st.sampled_from(["a", join_key("o", number, 1), join_key("o", number, 2)]))
    )
    return replace(
        said,
        recipient=draw(st.sampled_from([None, number])),
        provider_error=draw(st.sampled_from([None, "absent", f"no {number[1:]} here"])),
        statement={"numara": draw(st.sampled_from(same_number_spellings(number)))},
        parent_key="o",
    )


@given(st.lists(st.lists(_reports(), min_size=1, max_size=5), min_size=1, max_size=4), st.data())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_hidden_reports_give_the_same_rows_in_any_order_grouping_and_repetition(
    migrated_database: Engine, batches: list[list[DeliveryReport]], data: st.DataObject
) -> None:
    """Hidden alone or together, and hidden twice: the rows are those of all hidden statements, and a rebuild agrees."""
    asked_at = NOON + timedelta(hours=96)
    whole = defaultdict(list)
    for report in (each for batch in batches for each in batch):
        one = VAIRO.report(report)
        assert VAIRO.report(one) == one
        whole[one.granularity, one.provider_key].append(observe(one, asked_at=asked_at))
    expected: dict[Key, Any] = {key: fold(key[0], seen) for key, seen in whole.items()}
    assert len(expected) == len({each.provider_key for batch in batches for each in batch})
    regrouped = [[report] for batch in batches for report in batch]
    for way in (batches, data.draw(st.permutations([*regrouped, *regrouped[:3]]))):
        with transaction(migrated_database) as connection:
            account = add_account(connection)
        for batch in way:
            with transaction(migrated_database) as connection:
                upsert(connection, account, "vairo", VAIRO.reports(batch), asked_at=asked_at)
        with transaction(migrated_database) as connection:
            assert stored_rows(connection, account) == expected
            assert rebuild(connection, account) == RebuildResult(deliveries=len(expected), differed=0)


def account_of(provider: str) -> Account:
    """An account of this provider, its options at their defaults."""
    options = ADAPTERS[provider].record.options()
    return Account(id="a", provider=provider, base_url="", timezone=time_zone("UTC"), credentials={}, options=options)


@given(spelled, spelled)
def test_a_push_and_a_poll_of_one_recipient_of_an_order_have_one_key(pushed: str, polled: str) -> None:
    """Exactly where both name the same number, in whatever spelling."""
    hidden, account = HIDDEN["iletimerkezi"], account_of("iletimerkezi")
    body = msgspec.json.encode({"report": {"id": 7, "packet_id": 3, "status": "delivered", "to": pushed}})
    [ambiguous_report] = hidden.parsed(
        ADAPTERS["iletimerkezi"].parse_callback(account, Callback(tail="", body=body))
    ).ambiguous
    [report] = hidden.reports(report_recipients("3", read_recipients([{"number": polled, "status": 111}])[0])[0])
    assert ambiguous_report.report is not None
    is_same = pushed.replace(" ", "")[-10:] == polled.replace(" ", "")[-10:]
    assert (ambiguous_report.report.provider_key == report.provider_key) == is_same
    assert (ambiguous_report.report.recipient == report.recipient) == is_same
    assert ambiguous_report.twin_key.rpartition(":")[0] == ambiguous_report.report.provider_key.rpartition(":")[0]


@given(spelled, spelled)
def test_a_send_reply_and_a_report_of_one_failed_receiver_have_one_key(replied: str, reported: str) -> None:
    """Exactly where both name the same number, in whatever spelling."""
    hidden, account = HIDDEN["bip"], account_of("bip")
    keys = []
    for tail, receiver in (("send_reply", replied), ("report", reported)):
        item = {"receiver": receiver, "resultcode": 301, "numberofmessage": 1, "totalnumberofmessage": 1}
        body = msgspec.json.encode({"txnid": "t", "resultcode": 0, "list": [item]})
        [report] = hidden.parsed(ADAPTERS["bip"].parse_callback(account, Callback(tail=tail, body=body))).reports
        keys.append((report.provider_key, report.recipient))
        assert report.source in {Source.SEND_REPLY, Source.CALLBACK}
        assert receiver not in str(report)
    is_same = replied.replace(" ", "")[-10:] == reported.replace(" ", "")[-10:]
    assert (keys[0] == keys[1]) == is_same
