"""Whatever an accounts file contains, it is read or refused with places in the file, and no secret is repeated."""

from hypothesis import assume, given
from hypothesis import strategies as st

from ulak.providers.account_tables import AccountTable, LimitTable, PollTable, RetryTable
from ulak.providers.accounts import AccountsFileError, parse_accounts
from ulak.providers.options import Table
from ulak.providers.registry import ADAPTERS

SECRET = "s3cr3t-value"
VALUES = st.sampled_from(
    [
        "0", "-1", "1", "7", "99999999999999999999", "0.5", "-0.0", "1e308", "nan", "inf", "true", "false", '""', '"a"',
        f'"{SECRET}"', '"env:KEY"', '"file:/x"', '"hashed"', '"https://host"', '"Europe/Istanbul"',
        '"95 % within 60 s"', "[]", "[1, 'x']", "{}", "{ a = 1 }", '{ x = "delivered" }', f"{{ x = '{SECRET}' }}",
        "2026-01-02", "2026-01-02T03:04:05Z", "03:04:05",
    ]
)  # fmt: skip
MODELS: dict[str, type[Table]] = {"": AccountTable, "limit": LimitTable, "retry": RetryTable, "poll": PollTable}
KEYS = [(table, name) for table, model in MODELS.items() for name in model.model_fields] + [
    ("options", name) for adapter in ADAPTERS.values() for name in adapter.record.options.model_fields
]
KEYS += [("", "unknown"), ("limit", "unknown"), ("options", "unknown"), ("credentials", "api_key")]


@given(
    provider=st.sampled_from([*ADAPTERS, "nobody"]),
    given_keys=st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=6, unique_by=lambda each: each[0]),
)
def test_any_values_are_read_or_refused_with_a_place(
    provider: str, given_keys: list[tuple[tuple[str, str], str]]
) -> None:
    """No other exception; each mistake has a line of the file, a problem and a remedy."""
    # An id is no secret: every sentence about the account begins with it.
    assume((("", "id"), f'"{SECRET}"') not in given_keys)
    replaced = {name for (table, name), _ in given_keys if not table}
    lines = ["[[account]]"]
    lines += [line for line in ('id = "a"', f'provider = "{provider}"') if line.split(" ")[0] not in replaced]
    lines += [f"{'.'.join(filter(None, key))} = {value}" for key, value in given_keys if key[0] not in replaced]
    answer = answer_to("\n".join(lines))
    if not isinstance(answer, AccountsFileError):
        assert answer == ["a"]
        return
    assert answer.mistakes
    assert all(1 <= each.line <= len(lines) and each.problem and each.right for each in answer.mistakes)
    words = str(answer) + repr(answer.mistakes)
    assert [hidden for hidden in (SECRET, "{key}", "{path}") if hidden in words] == []
    # No validation error is behind it: that would hold the values.
    assert (answer.__cause__, answer.__context__) == (None, None)


def answer_to(text: str) -> list[str] | AccountsFileError:
    """The ids in the file, or why it is refused."""
    try:
        return [account.id for account in parse_accounts(text)]
    except AccountsFileError as error:
        return error
