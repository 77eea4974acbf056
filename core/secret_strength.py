"""How long the secrets are that we choose ourselves: what is too short can be guessed, and examples are known to all.

Providers' credentials are never judged: the provider chose them.
"""

from pathlib import Path
from typing import Final

MIN_LENGTH: Final = 24
"""Characters of a secret: 120 bits and more where it is random. `openssl rand -hex 24` makes a good one."""
ADVICE: Final = f"give at least {MIN_LENGTH} characters, such as `openssl rand -hex 24` prints"
_MARKER: Final = "strict-secrets"
_EXAMPLES: Final = ("changeme", "example", "password", "secret", "ulak")
"""What a secret made of nothing else is: copied from a document, or typed for want of an idea."""


def is_example(secret: str) -> bool:
    """Whether it consists of words of our examples, digits and separators alone."""
    rest = "".join(filter(str.isalnum, secret.casefold()))
    for word in _EXAMPLES:
        rest = rest.replace(word, "")
    return bool(secret) and not rest.strip("0123456789")


def is_short(secret: str) -> bool:
    """Whether it has fewer characters than `MIN_LENGTH`."""
    return len(secret) < MIN_LENGTH


def create_home(home: Path) -> None:
    """Make the data folder, unless it is there. One that is made here takes no short secrets."""
    try:
        home.mkdir(parents=True)
    except FileExistsError:
        return
    (home / _MARKER).touch(mode=0o600)


def takes_short_secrets(home: Path) -> bool:
    """Whether the data folder is older than the rule. To be removed with the next version, which has no exception."""
    return not (home / _MARKER).exists()
