"""Who is told: real HTTP and SMTP on loopback, TLS of a private authority, and settings that are wrong."""

import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import Ulak, ulak
from notified import PASSWORD, SECRET, Hook, MailServer, written
from private_ca import Authority

from ulak.api.notify.mail import read_server
from ulak.api.notify.message_texts import Message, problems_of
from ulak.api.notify.receivers import NotTakenError, Receiver, check_url, receivers_for
from ulak.api.notify.signing import read_secrets, signed_headers
from ulak.api.pages.alarms import Alarm
from ulak.api.pages.language import Language
from ulak.core.settings import SettingsError, load_settings
from ulak.models.problems import Change, Episode, State

__all__ = ["ulak"]  # a fixture

AT = datetime(2026, 11, 27, 12, 34, 56, tzinfo=UTC)
Given = Callable[..., list[Receiver]]
LOGIN = f"ulak@example.com:{PASSWORD}"


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    """The receivers of these settings; a name in lower case is a file with this content."""

    def make(**settings: str) -> list[Receiver]:
        for name, value in settings.items():
            is_file = name.islower() and name.endswith("_file")
            content = written(tmp_path, name, value) if is_file else value
            monkeypatch.setenv(f"ULAK_NOTIFY_{name.upper()}", content)
        return receivers_for(load_settings())

    return make


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A receiver of requests."""
    with Hook() as hook:
        yield hook


def message(language: str = "en") -> Message:
    """About one problem, with what must be escaped."""
    alarm = Alarm(kind="paused", severity="held", values={"account": "a", "reason": "<http://x|y> & ğüş"}, account="a")
    [problem] = problems_of([alarm], Language(language))
    episode = Episode(problem=problem, name="paused:a@1", first_seen_at=AT, seen_at=AT)
    item = Change(state=State.OPEN, episode=episode).item()
    return Message(id="msg_stable", items=[item], created_at=AT, language=Language(language), page="https://ulak.test")


def mail_settings(server: MailServer, scheme: str = "smtp", login: str = "") -> dict[str, str]:
    """The settings that lead to this server."""
    return {
        "smtp_url_file": f"{scheme}://{login}127.0.0.1:{server.port}",
        "mail_from": "ulak@example.com",
        "mail_to": "on-call@example.com, ops@example.com",
    }


def why(receiver: Receiver) -> str:
    """Why it did not take a message; never with a secret, an address or what was answered."""
    with pytest.raises(NotTakenError) as caught:
        receiver.send(message())
    assert "canary" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_nobody_is_told_where_nothing_is_set(given: Given) -> None:
    """As before."""
    assert given() == []


def test_a_webhook_gets_json_that_its_secret_verifies(given: Given, hook: Hook) -> None:
    """The headers are those of Standard Webhooks, over the bytes that came."""
    [webhook] = given(webhook_url_file=hook.url, webhook_secret_file=SECRET)
    webhook.send(message())
    [taken] = hook.taken
    stamp = int(taken.headers["webhook-timestamp"])
    expected = signed_headers(read_secrets(SECRET), "msg_stable", stamp, taken.body)
    assert {name: taken.headers[name] for name in expected} == expected
    assert taken.headers["content-type"] == "application/json"
    assert (taken.json["type"], taken.json["timestamp"]) == ("ulak.problems", "2026-11-27T12:34:56+00:00")
    assert taken.json["data"]["page"] == "https://ulak.test"
    assert taken.json["data"]["problems"][0] | {"advice": ""} == {
        "state": "open",
        "episode": "paused:a@1",
        "key": "paused:a",
        "kind": "paused",
        "severity": "held",
        "account": "a",
        "summary": "a is paused until it is resumed manually: <http://x|y> & ğüş",
        "advice": "",
        "since": "2026-11-27T12:34:56+00:00",
        "until": None,
    }


def test_slack_gets_text_in_which_nothing_can_act(given: Given, hook: Hook) -> None:
    """`<…>` would be a link or a mention there."""
    [slack] = given(slack_url_file=hook.url)
    slack.send(message())
    [taken] = hook.taken
    assert list(taken.json) == ["text"]
    assert taken.json["text"].startswith(
        "*Ulak: a is paused until it is resumed manually: &lt;http://x|y&gt; &amp; ğüş*\n"
    )
    assert "<" not in taken.json["text"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [(500, "answered with status 500"), (404, "answered with status 404"), (302, "a redirect, which is not followed")],
)
def test_anything_but_success_is_no_acknowledgement(given: Given, hook: Hook, status: int, reason: str) -> None:
    """A redirect is not followed: it could lead inside."""
    hook.status, hook.reply = status, b"canary-of-the-reply"
    [webhook] = given(webhook_url_file=hook.url, webhook_secret_file=SECRET)
    assert reason in why(webhook)


def test_an_answer_that_is_too_large_is_none(given: Given, hook: Hook) -> None:
    """It is not held."""
    hook.status, hook.reply = 200, b"canary" * 100_000
    [slack] = given(slack_url_file=hook.url)
    assert "more than" in why(slack)


def test_a_receiver_that_is_not_there_is_named_without_its_address(given: Given) -> None:
    """The address of a Slack-compatible webhook is a secret."""
    [slack] = given(slack_url_file="http://127.0.0.1:1/canary")
    assert why(slack) == "cannot be reached"


def test_a_mail_has_the_same_message_id_in_every_attempt(given: Given) -> None:
    """In the reader's language, to everyone who is named."""
    with MailServer(login="\0" + LOGIN.replace(":", "\0")) as server:
        [mail] = given(**mail_settings(server, login="ulak%40example.com:" + PASSWORD + "@"))
        mail.send(message("tr"))
        mail.send(message("tr"))
    first, second = server.mails
    assert first["Message-ID"] == second["Message-ID"] == "<msg_stable@example.com>"
    assert (first["From"], first["To"]) == ("ulak@example.com", "on-call@example.com, ops@example.com")
    assert (first["Auto-Submitted"], first["Date"]) == ("auto-generated", "Fri, 27 Nov 2026 12:34:56 +0000")
    assert str(first["Subject"]).startswith("Ulak: a ")
    assert "ğüş" in str(first["Subject"])
    assert "https://ulak.test" in first.get_content()


def test_mail_travels_by_verified_tls(given: Given, tmp_path: Path) -> None:
    """STARTTLS before the log-in; a certificate of nobody known is refused."""
    ours, strangers = Authority(tmp_path), Authority(tmp_path, "strangers")
    login = "\0" + LOGIN.replace(":", "\0")
    with MailServer(context=ours.server_context(), login=login) as server:
        settings = mail_settings(server, login="ulak%40example.com:" + PASSWORD + "@")
        [mail] = given(**settings, CA_FILE=str(ours.file))
        mail.send(message())
        assert server.was_encrypted == [True]
        [mail] = given(**settings, CA_FILE=str(strangers.file))
        assert why(mail) == "shows a certificate that is not trusted"
        assert len(server.mails) == 1


def test_a_mail_server_that_refuses_is_quoted_by_its_code_alone(given: Given) -> None:
    """What it says may hold addresses."""
    with MailServer(login="\0nobody\0else") as server:
        [mail] = given(**mail_settings(server, login="u:canary@"))
        assert why(mail) == "refused the mail or the log-in with code 535"
    with MailServer() as server:
        server.refuses = True
        [mail] = given(**mail_settings(server))
        assert why(mail) == "refused the mail or the log-in with code 451"
        server.refuses = False
        server.refused_recipients = {"ops@example.com", "on-call@example.com"}
        assert why(mail) == "refused every recipient"
    assert why(mail).startswith("cannot be reached")


def test_a_recipient_that_is_refused_for_good_keeps_no_mail_from_the_others(given: Given) -> None:
    """It would be sent to them again and again; one that is refused for now is tried again."""
    with MailServer() as server:
        [mail] = given(**mail_settings(server))
        server.refused_recipients = {"ops@example.com"}
        assert mail.send(message()) == "refused 1 of the recipients for good"
        assert len(server.mails) == 1
        server.refusal = 451
        assert why(mail) == "refused 1 of the recipients"


def test_what_a_mail_server_says_to_a_farewell_changes_nothing(given: Given) -> None:
    """The mail was accepted before."""
    with MailServer() as server:
        server.farewell = 421
        [mail] = given(**mail_settings(server))
        assert mail.send(message()) is None
        assert len(server.mails) == 1


def test_a_mail_server_that_never_ends_its_greeting_ends_with_the_deadline(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the session is there, and while TLS begins with a server that never answers to it."""
    monkeypatch.setattr("ulak.api.notify.mail.ALL_SECONDS", 1.0)
    with MailServer() as server:
        server.greets_for_ever = True
        [mail] = given(**mail_settings(server))
        assert why(mail) == "did not answer in time"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"smtps://127.0.0.1:{silent.getsockname()[1]}"
        [mail] = given(smtp_url_file=url, mail_from="a@b.example", mail_to="a@b.example")
        assert why(mail) == "did not answer in time"


def test_mail_by_tls_from_the_first_byte_verifies_the_name_of_the_host(given: Given, tmp_path: Path) -> None:
    """A certificate of the right authority for another host is refused."""
    ours = Authority(tmp_path)
    with MailServer(context=ours.server_context(), is_tls=True) as server:
        settings = mail_settings(server, "smtps") | {"CA_FILE": str(ours.file)}
        [mail] = given(**settings)
        mail.send(message())
        assert server.was_encrypted == [True]
    with MailServer(context=ours.server_context(), is_tls=True, host="127.0.0.2") as server:
        url = f"smtps://127.0.0.2:{server.port}"
        [mail] = given(**settings | {"smtp_url_file": url})
        assert why(mail) == "shows a certificate that is not trusted"


@pytest.mark.parametrize(
    "url",
    [
        "smtp://u:%C5%9Fifre@127.0.0.1:25",
        "smtp://%C5%9F:p@127.0.0.1:25",
        "smtp://u:a%00b@127.0.0.1:25",
        "smtp://a..b:25",
        f"smtp://{'a' * 70}.example",
        "smtp://[canary",
        "smtp://host:99999",
    ],
)
def test_an_address_that_smtp_cannot_use_is_no_server(url: str) -> None:
    """With a sentence that says what is right, instead of an error deep inside an attempt."""
    with pytest.raises(ValueError, match="smtps://user:password@host:465") as caught:
        read_server(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("host", ["a..b", "host:99999", "host:0", "a" * 70 + ".example", "[canary", "host/\x01"])
def test_an_address_that_no_request_can_go_to_is_no_webhook(host: str) -> None:
    """Neither is it repeated."""
    with pytest.raises(ValueError, match="one address, https") as caught:
        check_url(f"https://{host}/x")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"webhook_url_file": "https://a.example/x"}, "ULAK_NOTIFY_WEBHOOK_SECRET_FILE belong together"),
        ({"webhook_secret_file": SECRET}, "ULAK_NOTIFY_WEBHOOK_SECRET_FILE belong together"),
        (
            {"slack_url_file": "http://slack.example/canary"},
            "ULAK_NOTIFY_SLACK_URL_FILE leads to a file with the wrong",
        ),
        ({"slack_url_file": "ftp://canary"}, "write one address, https (http to this host only)"),
        ({"SLACK_URL_FILE": "/nowhere/canary-not"}, "ULAK_NOTIFY_SLACK_URL_FILE: The credential"),
        (
            {"webhook_url_file": "https://a.example", "webhook_secret_file": "canary"},
            "ULAK_NOTIFY_WEBHOOK_SECRET_FILE leads to a file with the wrong content: write whsec_",
        ),
        ({"smtp_url_file": "smtp://a"}, "ULAK_NOTIFY_MAIL_TO belong together"),
        (
            {"smtp_url_file": "http://canary", "MAIL_FROM": "a@b.example", "MAIL_TO": "a@b.example"},
            "ULAK_NOTIFY_SMTP_URL_FILE leads to a file with the wrong content: write smtps://",
        ),
        ({"MAIL_TO": "on call <a@b.example>"}, "ULAK_NOTIFY_MAIL_TO is wrong: write bare addresses"),
        ({"MAIL_FROM": "a@b.example,b@b.example"}, "ULAK_NOTIFY_MAIL_FROM is wrong: write one bare address"),
        ({"slack_url_file": "https://a.example", "CA_FILE": "/nowhere"}, "ULAK_NOTIFY_CA_FILE"),
        ({"LANGUAGE": "de"}, "ULAK_NOTIFY_LANGUAGE is wrong: write en or tr"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_right(given: Given, settings: dict[str, str], sentence: str) -> None:
    """And never with what it holds."""
    with pytest.raises(SettingsError) as caught:
        given(**settings)
    assert sentence in str(caught.value)
    assert "canary" not in str(caught.value).replace("/nowhere/canary-not", "")


def test_check_says_who_is_told_and_what_is_wrong(
    ulak: Ulak, hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without sending anything."""
    [line] = [line for line in ulak("check").out.splitlines() if line.startswith("notifications")]
    assert line == "notifications: ok (no receiver is configured)"
    monkeypatch.setenv("ULAK_NOTIFY_SLACK_URL_FILE", written(tmp_path, "slack", hook.url))
    [line] = [line for line in ulak("check").out.splitlines() if line.startswith("notifications")]
    assert line == "notifications: ok (slack; `ulak notify test` sends one)"
    monkeypatch.setenv("ULAK_NOTIFY_WEBHOOK_URL_FILE", written(tmp_path, "hook", hook.url))
    told = ulak("check")
    assert (told.code, "belong together" in told.out, hook.taken) == (1, True, [])


def test_a_test_message_goes_to_each_receiver(
    ulak: Ulak, hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it is one, and who did not take it."""
    assert ulak("notify", "test").code == 2
    monkeypatch.setenv("ULAK_NOTIFY_SLACK_URL_FILE", written(tmp_path, "slack", hook.url))
    monkeypatch.setenv("ULAK_NOTIFY_WEBHOOK_URL_FILE", written(tmp_path, "hook", "http://127.0.0.1:1/"))
    monkeypatch.setenv("ULAK_NOTIFY_WEBHOOK_SECRET_FILE", written(tmp_path, "secret", SECRET))
    told = ulak("notify", "test")
    assert (told.code, told.out.splitlines()) == (1, ["webhook: cannot be reached", "slack: ok"])
    assert hook.taken[0].json["text"].startswith("*Ulak: test notification*")
    told = ulak("notify", "test", "slack")
    assert (told.code, told.out, len(hook.taken)) == (0, "slack: ok\n", 2)
    assert ulak("notify", "test", "fax").code == 2
    assert ulak("notify", "list", "--json").out == "[]\n"
