"""What a request carries in place of the credentials is masked like the credentials themselves."""

import hashlib
from pathlib import Path

import pytest
from made_accounts import made_account

from ulak.core import clock
from ulak.core.redaction import redact_text
from ulak.models.database import make_engine
from ulak.models.quarantine import new_key
from ulak.providers.http import HttpDoor
from ulak.providers.iletimerkezi import derive_hash
from ulak.tasks.runtime import Runtime

MD5 = hashlib.md5(b"ulak-tester-of-masks", usedforsecurity=False).hexdigest()
CASES = [
    ("organik", {"username": "ulak-tester", "password": "-of-masks"}, MD5),
    ("iletimerkezi", {"key": "k3y-of-the-test", "secret": "s3cret-of-the-test"}, None),
]


@pytest.mark.parametrize(("provider", "credentials", "sent"), CASES)
def test_a_secret_made_from_credentials_is_masked(
    provider: str, credentials: dict[str, str], sent: str | None, tmp_path: Path
) -> None:
    """It stands in a path or a body, and nobody ever named it."""
    secret = sent or derive_hash(credentials["key"], credentials["secret"])
    references = {}
    for name, value in credentials.items():
        (tmp_path / name).write_text(value, encoding="utf-8")
        references[name] = f"file:{tmp_path / name}"
    runtime = Runtime(
        engine=make_engine("postgresql://nobody@127.0.0.1:1/none"),
        door=HttpDoor(max_connections=1, boot=clock.boot),
        seal_key=new_key(),
    )
    runtime.account(made_account(provider, credentials=references))
    assert secret not in redact_text(f"word {secret} word")
