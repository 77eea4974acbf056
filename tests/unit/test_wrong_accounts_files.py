"""Wrong files as people write them, each with the whole answer: line, account, key, what is wrong and what is right."""
# ruff: noqa: E501 - each text is one line of the answer, whole

import pytest

from ulak.providers.accounts import AccountsFileError, parse_accounts

ACCOUNT = '[[account]]\nid = "a"\nprovider = "vairo"\n[account.credentials]\napi_key = "env:KEY"\n'
ORGANIK = ACCOUNT.replace("vairo", "organik")
DIYALOG = (
    '[[account]]\nid = "d"\nprovider = "diyalog"\n[account.credentials]\n'
    'access_key_id = "env:A"\naccess_key_secret = "env:B"\nrequester_userid = "env:C"\n'
)
BIP = (
    '[[account]]\nid = "b"\nprovider = "bip"\n[account.credentials]\n'
    'callback_user = "env:U"\ncallback_password = "env:P"\n'
)


def with_key(line: str) -> str:
    """The account with one more key."""
    return ACCOUNT.replace("[account.cred", f"{line}\n[account.cred")


WRONG = {
    "an id that is no slug": (
        ACCOUNT.replace('"a"', '"Marka SMS"'),
        [
            'F:2: Marka SMS id: it is no slug; right would be: id = "marka-sms": a-z, 0-9 and -, beginning with a letter or digit, at most 100 of them',
        ],
    ),
    "an id that is longer than the API takes": (
        ACCOUNT.replace('"a"', f'"{"a" * 101}"'),
        [
            'F:2: #1 id: it is no slug; right would be: id = "marka-sms": a-z, 0-9 and -, beginning with a letter or digit, at most 100 of them',
        ],
    ),
    "no id": (
        ACCOUNT.replace('id = "a"\n', ""),
        [
            'F:1: #1 id: it is no slug; right would be: id = "marka-sms": a-z, 0-9 and -, beginning with a letter or digit, at most 100 of them',
        ],
    ),
    "no provider": (
        ACCOUNT.replace('provider = "vairo"\n', ""),
        [
            "F:1: a provider: it is missing; right would be: one of iletimerkezi, vairo, organik, diyalog, bip",
        ],
    ),
    "an unknown provider": (
        ACCOUNT.replace("vairo", "viaro"),
        [
            "F:3: a provider: it is not known; right would be: vairo",
        ],
    ),
    "a provider that resembles none": (
        ACCOUNT.replace("vairo", "twilio"),
        [
            "F:3: a provider: it is not known; right would be: one of iletimerkezi, vairo, organik, diyalog, bip",
        ],
    ),
    "a key of one account too many letters": (
        with_key("enabeld = true"),
        [
            "F:4: a enabeld: it is not known; right would be: enabled",
        ],
    ),
    "a flag in quotes": (
        with_key('enabled = "yes"'),
        [
            "F:4: a enabled: it is neither true nor false; right would be: enabled = true or enabled = false, without quotes",
        ],
    ),
    "an address of another scheme": (
        with_key('base_url = "ftp://host"'),
        [
            'F:4: a base_url: it is no web address; right would be: base_url = "https://host/path", no user, query or fragment',
        ],
    ),
    "an address with a password": (
        with_key('base_url = "https://user:s3cr3t@host"'),
        [
            'F:4: a base_url: it is no web address; right would be: base_url = "https://host/path", no user, query or fragment',
        ],
    ),
    "plain http": (
        with_key('base_url = "http://example.com"'),
        [
            "F:4: a base_url: the credentials would travel readable for everybody on the way; right would be: https://…, or allow_plain_http = true beside it where the provider has no https",
        ],
    ),
    "no address where none is public": (
        DIYALOG,
        [
            "F:1: d base_url: it is missing; right would be: the address of your account at this provider, it has no public one",
        ],
    ),
    "a misspelt time zone": (
        with_key('timezone = "Europe/Istambul"'),
        [
            "F:4: a timezone: there is no such time zone; right would be: Europe/Istanbul",
        ],
    ),
    "a time zone that is a number": (
        with_key("timezone = 3"),
        [
            "F:4: a timezone: there is no such time zone; right would be: one of Africa/Abidjan, Africa/Accra, Africa/Addis_Ababa, Africa/Algiers, Africa/Asmara, Africa/Asmera, Africa/Bamako, Africa/Bangui, Africa/Banjul, Africa/Bissau, Africa/Blantyre, Africa/Brazzaville, …",
        ],
    ),
    "recipients of another form": (
        with_key('recipients = "hash"'),
        [
            "F:4: a recipients: it is not known; right would be: hashed",
        ],
    ),
    "a ca_file that is no path": (
        with_key("ca_file = 5"),
        [
            'F:4: a ca_file: it is not a path; right would be: ca_file = "/etc/ssl/company-ca.pem"',
        ],
    ),
    "a ca_file that is not there": (
        with_key('ca_file = "/nowhere/ca.pem"'),
        [
            "F:4: a ca_file: the file cannot be read (No such file or directory); right would be: the path of a PEM file that exists and that this user may read",
        ],
    ),
    "a proxy with a password": (
        with_key('proxy = "http://user:s3cr3t@proxy:3128"'),
        [
            'F:4: a proxy: it holds a user or password, and secrets do not belong into this file; right would be: proxy = "env:NAME" or "file:PATH", with the whole address kept there',
        ],
    ),
    "a proxy of another scheme": (
        with_key('proxy = "socks5://proxy:1080"'),
        [
            "F:4: a proxy: it is not the address of an HTTP proxy (https and socks proxies are not supported); right would be: http://host:port, or env:NAME or file:PATH that leads to http://user:password@host:port, special characters of the password percent-encoded",
        ],
    ),
    "an objective of another form": (
        with_key('objective = "95 %"'),
        [
            'F:4: a objective: it is no objective; right would be: objective = "95 % within 60 s": 50 to 99.99 %, and a time in s, min or h, up to 24 h',
        ],
    ),
    "a credential written out": (
        ACCOUNT.replace("env:KEY", "s3cr3t"),
        [
            'F:5: a credentials.api_key: it is not a reference, and secrets do not belong into this file; right would be: api_key = "env:NAME" or "file:PATH", with the value kept there',
        ],
    ),
    "a misspelt credential": (
        ACCOUNT.replace("api_key", "apikey"),
        [
            "F:5: a credentials.apikey: this provider has no such credential; right would be: api_key",
        ],
    ),
    "no credentials": (
        ACCOUNT.replace('[account.credentials]\napi_key = "env:KEY"\n', ""),
        [
            "F:1: a credentials: these credentials are not complete; right would be: api_key",
        ],
    ),
    "half of a pair of credentials": (
        ORGANIK.replace("api_key", "username"),
        [
            "F:4: a credentials: these credentials are not complete; right would be: api_key or username + password",
        ],
    ),
    "a table that is a number": (
        with_key("limit = 5"),
        [
            "F:4: a limit: it is not a table; right would be: [account.limit]",
        ],
    ),
    "a limit of nothing": (
        ACCOUNT + "[account.limit]\nrequests = 0\nper_second = 60\nconcurrency = 1.5\n",
        [
            "F:7: a limit.requests: it is no number within its bounds; right would be: a whole number at least 1, at most 100000",
            "F:8: a limit.per_second: it is not known; right would be: per_seconds",
            "F:9: a limit.concurrency: it is no number within its bounds; right would be: a whole number at least 1, at most 1000",
        ],
    ),
    "numbers in quotes": (
        ACCOUNT
        + '[account.poll]\nevery_seconds = "30"\nlookback_days = true\ntime_factor = nan\nmax_check_seconds = -1\nfirst_check_seconds = "x"\nadaptive = 1\n',
        [
            "F:7: a poll.every_seconds: it is no number within its bounds; right would be: a number above 0, at most 86400, without quotes",
            "F:8: a poll.lookback_days: it is no number within its bounds; right would be: a whole number at least 0, at most 366",
            "F:9: a poll.time_factor: it is no number within its bounds; right would be: a number above 0, at most 1000, without quotes",
            "F:10: a poll.max_check_seconds: it is no number within its bounds; right would be: a number above 0, at most 31622400, without quotes",
            "F:11: a poll.first_check_seconds: it is no number within its bounds; right would be: a number at least 0, at most 31622400, without quotes",
            "F:12: a poll.adaptive: it is neither true nor false; right would be: adaptive = true or adaptive = false, without quotes",
        ],
    ),
    "a longest wait below the first": (
        ACCOUNT + "[account.retry]\nbase_seconds = 10\ncap_seconds = 1\nmax_attempts = 101\n",
        [
            "F:8: a retry.cap_seconds: it is less than base_seconds; right would be: a longest wait that is not below the first",
            "F:9: a retry.max_attempts: it is no number within its bounds; right would be: a whole number at least 1, at most 100",
        ],
    ),
    "a first wait above the default of the longest": (
        ACCOUNT + "[account.retry]\nbase_seconds = 1000\n",
        [
            "F:6: a retry.cap_seconds: it is less than base_seconds; right would be: a longest wait that is not below the first",
        ],
    ),
    "options of the wrong kind": (
        ORGANIK
        + '[account.options]\nformat = "yaml"\nbatch_size = 1.5\nvalidity_hours = 0\ndeadline_seconds = 76\nnumber_form = "plus"\n',
        [
            "F:7: a options.format: it is not known; right would be: one of json, xml",
            "F:8: a options.batch_size: it is no number within its bounds; right would be: a whole number at least 1, at most 1000",
            "F:9: a options.validity_hours: it is no number within its bounds; right would be: a number above 0, at most 8784, without quotes",
            "F:10: a options.deadline_seconds: it is no number within its bounds; right would be: a number above 0, at most 75, without quotes",
            "F:11: a options.number_form: it is not known; right would be: one of batch_size, deadline_seconds, format, status_map, validity_hours",
        ],
    ),
    "a misspelt option": (
        ACCOUNT + '[account.options]\nnumber_from = "plus"\n',
        [
            "F:7: a options.number_from: it is not known; right would be: number_form",
        ],
    ),
    "options that are no tables, lists and texts": (
        BIP
        + '[account.options]\nreporttypes = "x"\nallowed_ips = "192.0.2.1"\n[account.options.status_map]\nNEW = "read"\n',
        [
            "F:8: b options.reporttypes: it is not a table; right would be: [account.options.reporttypes]",
            "F:9: b options.allowed_ips: it has the wrong type; right would be: a list in brackets",
            "F:10: b options.status_map: it is not known; right would be: one of allowed_ips, deadline_seconds, reporttypes, validity_hours",
        ],
    ),
    "a path that is no text": (
        DIYALOG.replace("[account.cred", 'base_url = "https://d.example"\n[account.cred')
        + '[account.options]\npath = 5\npage_base = 2\ngroup = "true"\nheader_names = "x"\n',
        [
            "F:10: d options.path: it has the wrong type; right would be: a text in quotes",
            "F:11: d options.page_base: it is no number within its bounds; right would be: a whole number at least 0, at most 1",
            "F:12: d options.group: it is neither true nor false; right would be: group = true or group = false, without quotes",
            "F:13: d options.header_names: it is not known; right would be: one of x-dlg, legacy",
        ],
    ),
    "a map of documented codes and of words that are no status": (
        ACCOUNT
        + '[account.options.status_map]\nDELIVERED = "rejected"\nNEW = "gone"\n" SPACE" = "rejected"\nOLD = 5\n',
        [
            "F:7: a options.status_map.DELIVERED: this code is documented, and its meaning is fixed; right would be: only codes that docs/reference/providers/vairo.md lacks",
            'F:8: a options.status_map.NEW: it is no status that a code can mean; right would be: one of scheduled, enroute, sent, delivered, undeliverable, expired, rejected, read; a failure may name its reason, as in "rejected/opted_out"',
            "F:9: a options.status_map. SPACE: it is no status code; right would be: the code as the provider writes it, without blanks around it",
            'F:10: a options.status_map.OLD: it is no status that a code can mean; right would be: one of scheduled, enroute, sent, delivered, undeliverable, expired, rejected, read; a failure may name its reason, as in "rejected/opted_out"',
        ],
    ),
    "a map that is no table": (
        ACCOUNT + '[account.options]\nstatus_map = "rejected"\n',
        [
            "F:7: a options.status_map: it is not a table; right would be: [account.options.status_map]",
        ],
    ),
    "one id twice": (
        ACCOUNT + ACCOUNT.replace("env:KEY", "env:OTHER"),
        [
            "F:7: a id: it is used twice; right would be: an id of its own",
        ],
    ),
    "one limit twice": (
        ACCOUNT + ACCOUNT.replace('"a"', '"b"'),
        [
            "F:9: b credentials: they are those of a, and two accounts would double the limit; right would be: one account for these credentials, or enabled = false for the other",
        ],
    ),
    "one limit twice, and another mistake": (
        with_key("enabeld = true") + ACCOUNT.replace('"a"', '"b"'),
        [
            "F:4: a enabeld: it is not known; right would be: enabled",
            "F:10: b credentials: they are those of a, and two accounts would double the limit; right would be: one account for these credentials, or enabled = false for the other",
        ],
    ),
    "an unknown provider and its options": (
        ACCOUNT.replace("vairo", "viaro") + '[account.options]\nanything = 1\nvalidity_hours = "x"\n[account.limits]\n',
        [
            "F:3: a provider: it is not known; right would be: vairo",
            "F:8: a options.validity_hours: it is no number within its bounds; right would be: a number above 0, at most 8784, without quotes",
            "F:9: a limits: it is not known; right would be: limit",
        ],
    ),
    "a table of another name": (
        "[[acount]]\nid = 1\n",
        [
            "F:1: 'acount' is not known here; right would be: only [[account]] tables",
            "F:1: there is no account in the file; right would be: at least one [[account]]",
        ],
    ),
    "an account that is no list": (
        ACCOUNT.replace("[[account]]", "[account]"),
        [
            "F:1: account is not a list of tables; right would be: [[account]]",
        ],
    ),
    "an empty file": (
        "",
        [
            "F:1: there is no account in the file; right would be: at least one [[account]]",
        ],
    ),
    "a quote that is not closed": (
        ACCOUNT + 'x = "unclosed s3cr3t\n',
        [
            "F:6: this is not TOML (Illegal character '\\n', column 21); right would be: quotes closed, no key twice in a table",
        ],
    ),
    "a number that no program reads": (
        ACCOUNT + "[account.poll]\nlookback_days = " + "9" * 5000 + "\n",
        [
            "F:1: the accounts file cannot be parsed: a number in it is too long, or it is nested too deeply; right would be: numbers and tables as docs/reference/configuration.md shows them",
        ],
    ),
    "lists within lists": (
        ACCOUNT + "x = " + "[" * 5000 + "\n",
        [
            "F:1: the accounts file cannot be parsed: a number in it is too long, or it is nested too deeply; right would be: numbers and tables as docs/reference/configuration.md shows them",
        ],
    ),
    "a key twice": (
        ACCOUNT + 'api_key = "s3cr3t"\n',
        [
            "F:6: this is not TOML (Cannot overwrite a value, column 19); right would be: quotes closed, no key twice in a table",
        ],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_answered_with_every_mistake_and_its_remedy(name: str) -> None:
    """The whole text is compared: nothing that people rely on may get lost, and no secret may get in."""
    text, lines = WRONG[name]
    with pytest.raises(AccountsFileError) as caught:
        parse_accounts(text, file="F")
    assert str(caught.value).splitlines() == lines
    assert "s3cr3t" not in str(caught.value) + repr(caught.value.mistakes)
