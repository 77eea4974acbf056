"""Ports: a wanted one is taken or refused, an unwanted one makes way."""

import socket
from collections.abc import Iterator

import pytest

from ulak.cli.up import _address
from ulak.local.ports import PortBusyError, choose_port, is_free


@pytest.fixture
def busy() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_busy_default_makes_way_for_the_next_free_port(busy: int) -> None:
    """Nothing was asked for, so the next one that is free is as good."""
    chosen = choose_port(None, busy, "127.0.0.1")
    assert busy < chosen <= busy + 200
    assert is_free(chosen, "127.0.0.1")


def test_a_free_default_is_taken(busy: int) -> None:
    """The default is the default."""
    free = choose_port(None, busy, "127.0.0.1")
    assert choose_port(None, free, "127.0.0.1") == free


def test_a_wanted_port_is_never_replaced(busy: int) -> None:
    """Who names a port has written it down elsewhere too."""
    with pytest.raises(PortBusyError, match=rf"^Port {busy} on 127\.0\.0\.1 is in use: stop"):
        choose_port(busy, 1, "127.0.0.1")


def test_an_address_of_another_machine_is_explained() -> None:
    """The sentence says which setting is wrong."""
    with pytest.raises(PortBusyError, match=r"no address of this machine: set ULAK_BIND"):
        choose_port(None, 8000, "192.0.2.1")


def test_an_address_beside_a_busy_port_says_so(busy: int) -> None:
    """Whoever bookmarked the usual port would meet another program there, and wonder."""
    other = choose_port(None, busy, "127.0.0.1")
    told = f"http://127.0.0.1:{other} (port {busy} is in use by another program)"
    assert _address("127.0.0.1", other, busy) == told
    assert _address("127.0.0.1", other, other) == f"http://127.0.0.1:{other}"
