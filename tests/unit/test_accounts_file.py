"""`accounts.toml`: what a right file means, and how a wrong one is refused."""

from pathlib import Path

import pytest

from ulak.models.account import AccountSettings
from ulak.providers.account_values import Mistake
from ulak.providers.accounts import AccountsFileError, parse_accounts, read_accounts
from ulak.providers.registry import ADAPTERS
from ulak.providers.retry import RetryPolicy

FULL = """
# The brand's SMS.
[[account]]
id = "marka-sms"
provider = "organik"
base_url = "http://127.0.0.1:9403/"
timezone = "Europe/Istanbul"
[account.credentials]
api_key = "env:ORGANIK_KEY"
[account.limit]
requests = 20
per_seconds = 60
concurrency = 2
[account.retry]
max_attempts = 5
base_seconds = 0.1
cap_seconds = 30
[account.poll]
every_seconds = 0.5
lookback_days = 2
first_check_seconds = 0.2
max_check_seconds = 5
time_factor = 0.01
[account.options]
format = "xml"
validity_hours = 0.5
deadline_seconds = 5

[[account]]
id = "bip-1"
provider = "bip"
credentials = { callback_user = "env:BIP_USER", callback_password = "file:/run/secrets/bip password" }
enabled = false
"""


def _mistakes(text: str) -> list[Mistake]:
    with pytest.raises(AccountsFileError) as caught:
        parse_accounts(text)
    return caught.value.mistakes


def _places(text: str) -> list[tuple[int, str, str]]:
    return [(mistake.line, mistake.account, mistake.where) for mistake in _mistakes(text)]


def test_a_full_account_is_read_whole() -> None:
    """Every key of the file arrives; durations may be shorter than a second."""
    first, second = parse_accounts(FULL)
    assert first == AccountSettings(
        id="marka-sms",
        provider="organik",
        base_url="http://127.0.0.1:9403",
        timezone="Europe/Istanbul",
        credentials={"api_key": "env:ORGANIK_KEY"},
        credentials_hash="5f22c0440e9e7b381c5c7a92de5e890944db97f255a94d02471aa22ca8e90be4",
        limit_requests=20,
        limit_per_seconds=60.0,
        limit_concurrency=2,
        retry={"max_attempts": 5, "base_seconds": 0.1, "cap_seconds": 30.0},
        poll={
            "every_seconds": 0.5,
            "lookback_days": 2,
            "first_check_seconds": 0.2,
            "max_check_seconds": 5.0,
            "time_factor": 0.01,
            "adaptive": True,
        },
        options={"validity_hours": 0.5, "deadline_seconds": 5.0, "format": "xml", "batch_size": 100},
        enabled=True,
    )
    assert (second.id, second.enabled, second.credentials) == (
        "bip-1",
        False,
        {"callback_user": "env:BIP_USER", "callback_password": "file:/run/secrets/bip password"},
    )


@pytest.mark.parametrize("provider", sorted(ADAPTERS))
@pytest.mark.parametrize("names", [0, -1])
def test_an_account_of_three_lines_gets_the_providers_defaults(provider: str, names: int) -> None:
    """Id, provider and one accepted set of credentials are enough (and an address, where there is no public one)."""
    record = ADAPTERS[provider].record
    url = "" if record.base_url else 'base_url = "https://marka.example.com"\n'
    keys = "".join(f'{name} = "env:{name.upper()}"\n' for name in record.credentials[names])
    [account] = parse_accounts(f'[[account]]\nid = "a"\nprovider = "{provider}"\n{url}[account.credentials]\n{keys}')
    assert (account.limit_requests, account.limit_per_seconds, account.limit_concurrency) == (
        record.limit.requests,
        record.limit.per_seconds,
        record.limit.concurrency,
    )
    assert RetryPolicy(**account.retry) == RetryPolicy()
    assert account.poll == {
        "lookback_days": record.lookback_days,
        "first_check_seconds": None,
        "max_check_seconds": None,
        "time_factor": 1.0,
        "adaptive": True,
    }
    assert account.options == record.options().model_dump(exclude={"status_map"})
    assert (account.timezone, account.base_url) == ("Europe/Istanbul", record.base_url or "https://marka.example.com")


def test_every_mistake_is_listed_with_its_line() -> None:
    """One reading shows all that is wrong, in the order of the file."""
    text = """[[account]]
id = "Marka SMS"
provider = "organik"
base_url = "ftp://host"
timezone = "Europe/Istambul"
enabeld = true
[account.credentials]
api_key = "literal"
[account.limit]
requests = 0
per_second = 60
[account.retry]
base_seconds = 10
cap_seconds = 1
[account.poll]
every_seconds = "30"
time_factor = nan
[account.options]
format = "yaml"
batch_size = 1.5
deadline_seconds = 76

[[account]]
id = "v"
provider = "viaro"
limit = 5

[[account]]
id = "d"
provider = "diyalog"
"""
    assert _places(text) == [
        (2, "Marka SMS", "id"),
        (4, "Marka SMS", "base_url"),
        (5, "Marka SMS", "timezone"),
        (6, "Marka SMS", "enabeld"),
        (8, "Marka SMS", "credentials.api_key"),
        (10, "Marka SMS", "limit.requests"),
        (11, "Marka SMS", "limit.per_second"),
        (14, "Marka SMS", "retry.cap_seconds"),
        (16, "Marka SMS", "poll.every_seconds"),
        (17, "Marka SMS", "poll.time_factor"),
        (19, "Marka SMS", "options.format"),
        (20, "Marka SMS", "options.batch_size"),
        (21, "Marka SMS", "options.deadline_seconds"),
        (25, "v", "provider"),
        (26, "v", "limit"),
        (28, "d", "base_url"),
        (28, "d", "credentials"),
    ]


ACCOUNT = '[[account]]\nid = "a"\nprovider = "vairo"\n[account.credentials]\napi_key = "env:KEY"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            ACCOUNT.replace("vairo", "viaro"),
            "F:3: a provider: it is not known; right would be: vairo",
        ),
        (
            ACCOUNT.replace("api_key", "apikey"),
            "F:5: a credentials.apikey: this provider has no such credential; right would be: api_key",
        ),
        (
            ACCOUNT.replace("env:KEY", "s3cr3t"),
            (
                "F:5: a credentials.api_key: it is not a reference, and secrets do not belong into this file; "
                'right would be: api_key = "env:NAME" or "file:PATH", with the value kept there'
            ),
        ),
        (
            ACCOUNT + '[account.options]\nnumber_from = "plus"\n',
            "F:7: a options.number_from: it is not known; right would be: number_form",
        ),
        (
            ACCOUNT + "[account.poll]\nevery_seconds = 0\n",
            (
                "F:7: a poll.every_seconds: it is no number within its bounds; "
                "right would be: a number above 0, at most 86400, without quotes"
            ),
        ),
        (
            ACCOUNT.replace('[account.credentials]\napi_key = "env:KEY"\n', ""),
            "F:1: a credentials: these credentials are not complete; right would be: api_key",
        ),
        (
            ACCOUNT.replace('"vairo"', '"organik"').replace("api_key", "username"),
            "F:4: a credentials: these credentials are not complete; right would be: api_key or username + password",
        ),
        (
            ACCOUNT.replace("[account.cred", 'timezone = "Europe/Istambul"\n[account.cred'),
            "F:4: a timezone: there is no such time zone; right would be: Europe/Istanbul",
        ),
        (
            ACCOUNT.replace("[[account]]", "[account]"),
            "F:1: account is not a list of tables; right would be: [[account]]",
        ),
        ("[[acount]]\n", "F:1: 'acount' is not known here; right would be: only [[account]] tables"),
        ("", "F:1: there is no account in the file; right would be: at least one [[account]]"),
        (
            ACCOUNT + 'x = "unclosed s3cr3t\n',
            (
                "F:6: this is not TOML (Illegal character '\\n', column 21); "
                "right would be: quotes closed, no key twice in a table"
            ),
        ),
        (
            ACCOUNT + "x = s3cr3t\n",
            ("F:6: this is not TOML (Invalid value, column 5); right would be: quotes closed, no key twice in a table"),
        ),
        (
            ACCOUNT + "x = [1\n",
            "F:7: this is not TOML (Unclosed array); right would be: quotes closed, no key twice in a table",
        ),
        (
            ACCOUNT + "[s3cr3t]\n[s3cr3t]\n",
            "F:7: this is not TOML; right would be: quotes closed, no key twice in a table",
        ),
    ],
)
def test_a_mistake_says_what_would_be_right(text: str, sentence: str) -> None:
    """Line, account, place, problem and remedy in one sentence; a secret is never repeated."""
    with pytest.raises(AccountsFileError) as caught:
        parse_accounts(text)
    assert sentence.replace("F:", "accounts.toml:", 1) in str(caught.value).splitlines()
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in repr(caught.value.mistakes)


REFUSED = [
    "", "host", "http://", "https://user:s3cr3t@host", "https://@host", "https://host?api_key=s3cr3t", "https://host#x",
    "https://host:99999", "https://host:0", "https://ho st", "file:///etc/passwd", "gopher://host", "unix:/run/x",
    "javascript:alert(1)", "https:host", "//host", "https://host\\t/", "https://host\\r\\nX: y", "https://host/%00",
    "https://host/%0d%0aX", "https://host/%7F", "https://\u0430pple.com", "https://host/ğ", "https://host\\\\@x",
    "https://host/" + "a" * 5000, "https://-host", "https://ho..st", "https://169.254.169.254/latest/meta-data",
    "https://[fe80::1]/", "https://[::ffff:169.254.169.254]/", "https://0.0.0.0/", "https://[::]/", "https://224.0.0.1/",
    "https://0xa9fea9fe/", "https://2852039166/", "https://0251.0376.0251.0376/", "https://169.254.43518/",
    "https://127.1/", "https://1.2.3.256/", "https://host\u200b/", "https://[::1", "https://host:8x",
]  # fmt: skip
IN_THE_CLEAR = [
    "http://example.com", "http://sms.firma.internal:8080/api", "http://10.0.0.5", "http://[fd00::2]:80/x",
    "http://127.0.0.1.example.com", "http://localhost.example.com", "HTTP://example.com",
]  # fmt: skip
TAKEN = [
    "https://example.com", "https://example.com:8443/api/v1/", "https://xn--firma-xxa.example", "https://10.0.0.5/x",
    "https://[2001:db8::1]:443/", "http://127.0.0.1:9403", "http://127.8.9.1", "http://[::1]:80", "http://localhost:1/x",
    "http://vairo.localhost", "https://under_score.example", "https://example.com./x%20y",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_no_address_of_a_provider_is_refused(url: str) -> None:
    """Whoever may write the file still cannot lead our credentials into the cloud's metadata or past what is shown."""
    [mistake] = _mistakes(
        ACCOUNT.replace("[account.cred", f'base_url = "{url}"\nallow_plain_http = true\n[account.cred')
    )
    assert (mistake.line, mistake.where) == (4, "base_url")
    assert "s3cr3t" not in str(mistake)


@pytest.mark.parametrize("url", IN_THE_CLEAR)
def test_plain_http_beyond_this_host_is_taken_only_by_order(url: str) -> None:
    """The credentials are in every request."""
    [mistake] = _mistakes(ACCOUNT.replace("[account.cred", f'base_url = "{url}"\n[account.cred'))
    assert "travel readable for everybody on the way; right would be: https" in str(mistake)
    ordered = ACCOUNT.replace("[account.cred", f'base_url = "{url}"\nallow_plain_http = true\n[account.cred')
    assert [account.base_url for account in parse_accounts(ordered)] == [url]


@pytest.mark.parametrize("url", TAKEN)
def test_https_and_this_host_need_no_order(url: str) -> None:
    """The sandbox and a tunnel at loopback are plain; nothing of theirs leaves the host."""
    [account] = parse_accounts(ACCOUNT.replace("[account.cred", f'base_url = "{url}"\n[account.cred'))
    assert account.base_url == url.rstrip("/")


@pytest.mark.parametrize("value", ['"s3cr3t"', "12345", '"env:"', '"env:A-B"', '"file:"', '"ENV:KEY"', '["env:KEY"]'])
def test_only_references_are_taken_for_credentials(value: str) -> None:
    """`env:NAME` or `file:PATH`, nothing else, and what stood there is not repeated."""
    [mistake] = _mistakes(ACCOUNT.replace('"env:KEY"', value))
    assert (mistake.line, mistake.where) == (5, "credentials.api_key")
    assert value.strip('"') not in mistake.problem


def test_two_running_accounts_may_not_share_credentials() -> None:
    """They would double the limit; disabled ones and other addresses are no harm."""
    second = ACCOUNT.replace('"a"', '"b"')
    assert _places(ACCOUNT + second) == [(9, "b", "credentials")]
    elsewhere = second.replace("[account.cred", 'base_url = "http://127.0.0.1:1"\n[account.cred')
    disabled = second.replace('"b"', '"c"').replace("[account.cred", "enabled = false\n[account.cred")
    assert [account.id for account in parse_accounts(ACCOUNT + elsewhere + disabled)] == ["a", "b", "c"]


def test_one_file_written_in_two_ways_is_the_same_secret() -> None:
    """`file:` paths are compared as places, not as texts."""
    one = ACCOUNT.replace("env:KEY", "file:/run/secrets/vairo")
    other = ACCOUNT.replace('"a"', '"b"').replace("env:KEY", "file:/run//secrets/./vairo")
    assert _places(one + other) == [(9, "b", "credentials")]


def test_an_id_is_used_once() -> None:
    """The second use is pointed at."""
    assert (7, "a", "id") in _places(ACCOUNT + ACCOUNT.replace("env:KEY", "env:OTHER"))


def test_dotted_keys_and_long_texts_keep_their_lines() -> None:
    """The line is right however the file is laid out."""
    text = (
        '[[account]]\nid = "a"\nprovider = "vairo"\ncredentials.api_key = "env:KEY"\n'
        'options.number_form = """\n[[account]]\nplus"""\nlimit = { requests = 1, per_seconds = -1 }\n'
    )
    assert _places(text) == [(5, "a", "options.number_form"), (8, "a", "limit.per_seconds")]


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """Missing and not UTF-8 are mistakes like any other."""
    (tmp_path / "latin.toml").write_bytes("[[account]]\nid = 'ş'".encode("iso8859-9"))
    (tmp_path / "right.toml").write_text(FULL)
    problems = []
    for name in ("none.toml", "latin.toml"):
        with pytest.raises(AccountsFileError) as caught:
            read_accounts(tmp_path / name)
        problems.append(str(caught.value))
    right = "the path of a file that exists and may be read; docs/reference/configuration.md shows the smallest one"
    missing = f"{tmp_path}/none.toml:1: the accounts file"
    assert problems == [
        f"{missing} cannot be read (No such file or directory); right would be: {right}",
        f"{tmp_path}/latin.toml:2: the accounts file is not UTF-8 text; right would be: a file saved as UTF-8",
    ]
    assert [account.id for account in read_accounts(tmp_path / "right.toml")] == ["marka-sms", "bip-1"]
    (tmp_path / "right.toml").write_text(FULL, encoding="utf-8-sig")
    assert [account.id for account in read_accounts(tmp_path / "right.toml")] == ["marka-sms", "bip-1"]


def test_an_optional_credential_may_stand_beside_a_set_and_is_no_account_of_its_own() -> None:
    """A webhook's secret is accepted with any set, not alone, and does not let two accounts share one limit."""
    head = '[[account]]\nid = "{id}"\nprovider = "iletimerkezi"\n[account.credentials]\n'
    keys, secret = 'key = "env:K"\nhash = "env:H"\n', 'webhook_secret = "env:W"\n'
    [plain] = parse_accounts(head.format(id="a") + keys)
    [pushed] = parse_accounts(head.format(id="a") + keys + secret)
    assert (pushed.credentials, pushed.credentials_hash) == (
        {"key": "env:K", "hash": "env:H", "webhook_secret": "env:W"},
        plain.credentials_hash,
    )
    with pytest.raises(AccountsFileError, match="not complete"):
        parse_accounts(head.format(id="a") + secret)
    with pytest.raises(AccountsFileError, match="those of a"):
        parse_accounts(head.format(id="a") + keys + head.format(id="b") + keys + secret)


def _mapped(provider: str, credentials: str, *lines: str) -> str:
    """A file of one account with a status map."""
    head = f'[[account]]\nid = "a"\nprovider = "{provider}"\n[account.credentials]\n{credentials}'
    return "\n".join([head, "[account.options.status_map]", *lines])


def test_a_status_map_names_codes_beyond_the_documented_ones() -> None:
    """A status, or a failure with its reason; without a map nothing is stored."""
    text = _mapped("vairo", 'api_key = "env:K"', 'NOT_ALLOWED_BY_IYS = "rejected/opted_out"', 'QUEUED = "enroute"')
    [account] = parse_accounts(text)
    assert account.options["status_map"] == {"NOT_ALLOWED_BY_IYS": "rejected/opted_out", "QUEUED": "enroute"}
    [without] = parse_accounts(text.partition("[account.options")[0])
    assert "status_map" not in without.options


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('DELIVERED = "rejected"', "this code is documented, and its meaning is fixed"),
        ('"1" = "delivered"', "this code is documented, and its meaning is fixed"),
        ('NEW = "gone"', "it is no status that a code can mean"),
        ('NEW = "unknown"', "it is no status that a code can mean"),
        ('NEW = "unreported"', "it is no status that a code can mean"),
        ('NEW = "delivered/opted_out"', "it is no status that a code can mean"),
        ('NEW = "rejected/"', "it is no status that a code can mean"),
        ('NEW = "rejected/because"', "it is no status that a code can mean"),
        ("NEW = 5", "it is no status that a code can mean"),
        ('" NEW" = "rejected"', "it is no status code"),
        ('"" = "rejected"', "it is no status code"),
    ],
)
def test_a_wrong_status_map_is_refused_with_what_would_be_right(line: str, problem: str) -> None:
    """Line, account and key are named; a documented code cannot be given another meaning."""
    [mistake] = _mistakes(_mapped("vairo", 'api_key = "env:K"', line))
    assert (mistake.account, mistake.problem) == ("a", problem)
    assert mistake.where.startswith("options.status_map")
    assert mistake.line == 7


def test_a_status_map_is_only_for_providers_that_have_codes() -> None:
    """BiP's codes have an option of their own, Diyalog has none; a map that is no table is told with its full name."""
    bip = 'callback_user = "env:U"\ncallback_password = "env:P"'
    assert [mistake.where for mistake in _mistakes(_mapped("bip", bip, '"7" = "read"'))] == ["options.status_map"]
    text = _mapped("organik", 'api_key = "env:K"').replace("[account.options.status_map]", "[account.options]")
    [mistake] = _mistakes(text + '\nstatus_map = "rejected"')
    assert (mistake.where, mistake.right) == ("options.status_map", "[account.options.status_map]")


def test_keep_days_is_a_whole_number_of_days_or_absent() -> None:
    """A wrong one is refused with its line and its bounds."""
    given = FULL.replace('timezone = "Europe/Istanbul"', "keep_days = 180")
    assert [account.keep_days for account in parse_accounts(given)] == [180, None]
    for wrong in ("6", "0", "-1", "36501", "180.0", '"180"', "true"):
        [mistake] = _mistakes(FULL.replace('timezone = "Europe/Istanbul"', f"keep_days = {wrong}"))
        assert (mistake.line, mistake.account, mistake.where) == (7, "marka-sms", "keep_days")
        assert mistake.right == "a whole number at least 7, at most 36500"


def test_an_objective_is_read_in_one_form_and_a_wrong_one_is_refused_with_its_line() -> None:
    """Where there is none, none is stored."""
    given = FULL.replace('timezone = "Europe/Istanbul"', 'objective = "99.5%  within 2 min"')
    assert [account.objective for account in parse_accounts(given)] == ["99.5 % within 2 min", None]
    for wrong in ('"95 %"', '"100 % within 60 s"', "95", '"95 % within 60 s of delivery"'):
        [mistake] = _mistakes(FULL.replace('timezone = "Europe/Istanbul"', f"objective = {wrong}"))
        assert (mistake.line, mistake.account, mistake.where) == (7, "marka-sms", "objective")
        assert mistake.right.startswith('objective = "95 % within 60 s"')
