"""What a caller may do: roles, each limited to accounts or not. Pure data; whose they are is known elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """From the least to the most; each includes those before it."""

    READ = "read"
    """See the state of everything, with people's numbers masked."""
    SUPPORT = "support"
    """Looks for a person, and shows one number at a time; each is recorded."""
    OPERATE = "operate"
    """Polls, pauses, registers and hands over; programs read the numbers in full."""
    ADMIN = "admin"
    """Also reads who did and saw what."""

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what `other` may."""
        return _RANK[self] >= _RANK[other]


_RANK = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A role."""

    role: Role
    accounts: frozenset[str] | None = None
    """For these accounts alone; None: for all, and for what belongs to no account."""


@dataclass(frozen=True, slots=True)
class Access:
    """All that somebody may do. Nothing, where there is no grant."""

    grants: tuple[Grant, ...] = ()

    def may(self, role: Role, account: str | None = None) -> bool:
        """Whether the caller has the role for this account; without one, for any account at all."""
        return any(
            grant.role.includes(role) and (account is None or grant.accounts is None or account in grant.accounts)
            for grant in self.grants
        )

    def may_everywhere(self, role: Role) -> bool:
        """Whether the caller has the role for all accounts, and for what belongs to none."""
        return any(grant.role.includes(role) and grant.accounts is None for grant in self.grants)

    def accounts(self, role: Role) -> frozenset[str] | None:
        """The accounts for which the caller has the role; None: all."""
        if self.may_everywhere(role):
            return None
        held = (grant.accounts or frozenset() for grant in self.grants if grant.role.includes(role))
        return frozenset().union(*held)


EVERYTHING = Access((Grant(role=Role.ADMIN),))
"""What the bearer of `ULAK_API_TOKEN` may do."""


def grant_of(role: str, accounts: Sequence[str] | None) -> Access:
    """The access of one stored role; none where this version does not know its name."""
    try:
        known = Role(role)
    except ValueError:
        return Access()
    return Access((Grant(role=known, accounts=None if accounts is None else frozenset(accounts)),))
