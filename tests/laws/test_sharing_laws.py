"""Laws of how the workers' threads are shared out among accounts."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from ulak.models.ledger.sharing import Pool, share

THREADS = st.integers(1, 64)
ACCOUNTS = 6


@dataclass
class Wish:
    """An account in the model: how many calls it would make, how many are in the air, whether its answers are slow."""

    wants: int
    is_slow: bool
    has: int = 0
    waits: bool = False
    was_answered: bool = False


wishes = st.lists(
    st.builds(Wish, wants=st.integers(0, 40), is_slow=st.booleans()), min_size=ACCOUNTS, max_size=ACCOUNTS
)
steps = st.lists(st.tuples(st.integers(0, ACCOUNTS - 1), st.sampled_from(["look", "answer"])), max_size=80)


def _pool(accounts: list[Wish], mine: Wish, threads: int) -> Pool:
    """What the account finds when it looks."""
    others = [each for each in accounts if each is not mine]
    return Pool(
        threads=threads,
        others=sum(each.has for each in others),
        slow_others=sum(each.has for each in others if each.is_slow),
        rivals=sum(1 for each in others if each.has or each.waits),
        is_crowded=any(each.waits for each in others),
        is_slow=mine.is_slow,
        gives_way=mine.was_answered and any(each.waits and not each.has for each in others),
    )


def _look(accounts: list[Wish], mine: Wish, threads: int) -> None:
    """Make as many calls as are wanted and allowed."""
    allowed = share(_pool(accounts, mine, threads))
    mine.waits = allowed < mine.wants
    mine.has = max(mine.has, min(allowed, mine.wants))


@given(THREADS, wishes, steps)
def test_no_account_takes_the_threads_of_the_others(
    threads: int, accounts: list[Wish], done: list[tuple[int, str]]
) -> None:
    """In any order of looks and answers: who has more than one call left a quarter free, and the slow keep to half."""
    open_to_all = threads - threads // 4
    for place, act in done:
        mine = accounts[place]
        before = mine.has
        if act == "answer":
            mine.has, mine.was_answered = max(0, mine.has - 1), True
            continue
        _look(accounts, mine, threads)
        taken = sum(each.has for each in accounts)
        slow = sum(each.has for each in accounts if each.is_slow)
        if mine.has > max(1, before):
            assert taken <= open_to_all
            assert not mine.is_slow or slow <= max(1, threads // 2)
        if mine.has > before and mine.is_slow:
            assert slow <= open_to_all


@given(THREADS, wishes, st.integers(0, ACCOUNTS - 1))
def test_whoever_is_not_slow_may_always_make_one_call(threads: int, accounts: list[Wish], place: int) -> None:
    """However many threads the others hold."""
    accounts[place].is_slow = False
    for each in accounts:
        each.has = each.wants
    allowed = share(_pool(accounts, accounts[place], threads))
    assert allowed >= 1


@given(THREADS, st.integers(1, ACCOUNTS))
def test_who_came_first_gives_way_until_all_have_an_even_part(threads: int, many: int) -> None:
    """The first takes all that is open; once those are answered, nobody has more than an even part, and all is used."""
    open_to_all = threads - threads // 4
    accounts = [Wish(wants=100, is_slow=False) for _ in range(many)]
    _look(accounts, accounts[0], threads)
    assert accounts[0].has == open_to_all
    for _ in range(threads):
        for mine in accounts:
            _look(accounts, mine, threads)
        for mine in accounts:
            mine.has = max(1, mine.has - 1)
            _look(accounts, mine, threads)
    parts = [each.has for each in accounts]
    assert max(parts) == -(-open_to_all // many)
    assert sum(parts) == max(open_to_all, many)
