"""What receivers are told, word by word, and how it is signed."""

import json
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ulak.api.notify.message_texts import MAX_ITEMS, MAX_SUBJECT_LENGTH, Message, problems_of
from ulak.api.notify.signing import SigningError, read_secrets, signed_headers
from ulak.api.pages.alarms import Alarm
from ulak.api.pages.language import CATALOGUES, Language
from ulak.models.problems import Change, Episode, State

AT = datetime(2026, 11, 27, 12, 34, 56, tzinfo=UTC)
VALUES = {
    "account": "marka-sms", "accounts": "marka-sms", "since": AT, "until": AT, "reason": "CredentialsRefused: no",
    "span": 4000.0, "n": 3, "names": "ULAK_API_TOKEN", "percent": "71.5",
    "text": "95 % within 60 s", "day": "2026-05-31", "at": AT,
}  # fmt: skip


def message(*alarms: Alarm, state: State = State.OPEN, language: str = "en") -> Message:
    """These alarms as one message."""
    items = [
        Change(
            state=state,
            episode=Episode(problem=problem, name=problem.key, first_seen_at=AT, seen_at=AT),
            until=AT if state is not State.OPEN else None,
        ).item()
        for problem in problems_of(alarms, Language(language))
    ]
    return Message(id="msg_1", items=items, created_at=AT, language=Language(language), page="https://ulak.test")


@pytest.mark.parametrize("language", sorted(CATALOGUES))
def test_every_alarm_of_the_page_can_be_told(language: str) -> None:
    """In full sentences: no place of a text stays empty."""
    texts = CATALOGUES[language]
    kinds = [key.split(".")[1] for key in texts if key.startswith("alarm.") and key.count(".") == 1]
    fixes = {key.split(".")[1] for key in texts if key.startswith("alarm.") and key.endswith(".fix")}
    alarms = [
        Alarm(kind=kind, severity="bad", values=VALUES, account="marka-sms", fix=kind if kind in fixes else "breaker")
        for kind in kinds
        if kind not in {"fix", "bad", "held", "warn"}
    ]
    assert len(alarms) > 15
    for state in State:
        text = message(*alarms[:MAX_ITEMS], state=state, language=language).text()
        assert not {"{", "}", "None", "<"} & set(text.split()), text
        assert "2026-11-27 12:34:56" in text


def test_a_beginning_says_what_to_do_and_an_end_says_from_when_to_when() -> None:
    """As plain text."""
    alarm = Alarm(kind="dead", severity="bad", values={"account": "marka-sms", "n": 2}, account="marka-sms")
    begun = message(alarm)
    assert begun.subject() == "Ulak: 2 requests of marka-sms failed permanently."
    assert begun.text().splitlines() == [
        "Broken: 2 requests of marka-sms failed permanently.",
        "What to do: The account's page shows the cause. Fix it, then press “Retry” there.",
        "Since 2026-11-27 12:34:56 UTC.",
        "",
        "Status page: https://ulak.test",
    ]
    over = message(alarm, state=State.RESOLVED)
    assert over.subject() == "Ulak: Resolved: 2 requests of marka-sms failed permanently."
    assert "From 2026-11-27 12:34:56 UTC to 2026-11-27 12:34:56 UTC." in over.text()


def test_the_example_in_the_documentation_is_what_is_sent() -> None:
    """Subject, summary and advice; its times are invented."""
    shown = (Path(__file__).parents[2] / "docs" / "how-to" / "notifications.md").read_text(encoding="utf-8")
    example = json.loads(shown.partition("```json\n")[2].partition("```")[0])
    alarm = Alarm(kind="dead", severity="bad", values={"account": "marka-sms", "n": 2}, account="marka-sms")
    sent = message(alarm).document()
    assert example["data"]["subject"] == sent["data"]["subject"]
    [told], [said] = example["data"]["problems"], sent["data"]["problems"]
    assert list(told) == list(said)
    names = ("state", "key", "kind", "severity", "account", "summary", "advice", "until")
    assert {name: told[name] for name in names} == {name: said[name] for name in names}


def test_no_number_of_a_person_and_no_secret_is_told() -> None:
    """Reasons quote what others wrote."""
    reason = "RequestWrong: 905301234567 is no number\nsecond line <b>"
    alarm = Alarm(kind="paused", severity="held", values={"account": "a", "reason": reason}, account="a")
    told = message(alarm)
    assert "5301234567" not in told.text() + told.subject() + told.body().decode()
    assert "\n" not in told.subject()


def test_a_message_about_very_much_stays_short() -> None:
    """The JSON still holds all of it."""
    alarms = [
        Alarm(kind="dead", severity="bad", values={"account": f"a-{n}", "n": 2}, account=f"a-{n}" + "x" * 200)
        for n in range(MAX_ITEMS + 5)
    ]
    told = message(*alarms)
    assert (len(told.document()["data"]["problems"]), "(and 5 more)" in told.text()) == (MAX_ITEMS + 5, True)
    assert len(told.subject()) <= MAX_SUBJECT_LENGTH
    assert told.subject().endswith(f"(and {MAX_ITEMS + 4} more)")


def test_a_signature_is_the_one_that_standard_webhooks_publish() -> None:
    """The vector of its documents and libraries."""
    secrets = read_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    body = b'{"test": 2432232314}'
    assert signed_headers(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_secret_that_is_rotated_signs_beside_the_old_one() -> None:
    """A receiver that knows either takes the message."""
    old, new = (f"whsec_{b64encode(letter * 32).decode()}" for letter in (b"a", b"b"))
    both = signed_headers(read_secrets(f"{new}\n{old}"), "msg_1", 1, b"{}")["webhook-signature"].split(" ")
    each = [signed_headers(read_secrets(one), "msg_1", 1, b"{}")["webhook-signature"] for one in (new, old)]
    assert both == each


@pytest.mark.parametrize(
    "text", ["", "\n", "whsec_", "whsec_no base64!", "whsec_c2hvcnQ=", b64encode(b"a" * 32).decode(), "whsec_é"]
)
def test_what_is_no_secret_is_refused_without_being_repeated(text: str) -> None:
    """Too short ones too: the standard asks for 24 bytes."""
    with pytest.raises(SigningError) as caught:
        read_secrets(text)
    assert str(caught.value) == ""
