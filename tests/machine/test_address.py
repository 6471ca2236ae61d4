"""Addresses: what is written, bound and dialled agree, whichever families a machine has."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from photon.errors import ConfigError
from photon.machine import address
from photon.machine.address import (
    dialled,
    format_address,
    listeners,
    require_free,
    split_address,
)

HAS_IPV6 = address._has_ipv6()
FAMILIES = [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6"))]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    found = listeners(host, port)
    try:
        yield found
    finally:
        for listener in found:
            listener.close()


@pytest.mark.parametrize("ipv6", FAMILIES)
@pytest.mark.parametrize("text", ["[::]", "", "0.0.0.0", "127.0.0.1"])
def test_a_machine_reaches_what_it_listens_on(text, ipv6, port, monkeypatch):
    monkeypatch.setattr(address, "_has_ipv6", lambda: ipv6)
    host, port = split_address(f"{text}:{port}")
    with listening(host, port):
        socket.create_connection((dialled(host), port), 1.0).close()
        with pytest.raises(ConfigError, match=f"port {port} on .*: is taken"):
            require_free(host, port)
    require_free(host, port)


@pytest.mark.parametrize("ipv6", FAMILIES)
def test_everywhere_is_every_family_there_is(ipv6, port, monkeypatch):
    monkeypatch.setattr(address, "_has_ipv6", lambda: ipv6)
    with listening("::", port) as found:
        families = [listener.family for listener in found]
        socket.create_connection(("127.0.0.1", port), 1.0).close()
        if ipv6:
            socket.create_connection(("::1", port), 1.0).close()
    assert families == [socket.AF_INET6, socket.AF_INET][not ipv6 :]


@pytest.mark.parametrize(
    ("host", "why"), [("203.0.113.7", "none of this machine"), ("no.such.invalid", "not known")]
)
def test_a_host_that_is_not_here_is_refused(host, why):
    with pytest.raises(ConfigError, match=why):
        listeners(host, 8000)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8123", "is a number alone; a port is written :8123"),
        ("host:x", "give HOST:PORT"),
        (":70000", "a port from 1 to 65535"),
        ("http://host:80", "give HOST:PORT"),
        ("a..b:80", "no host can have that name"),
    ],
)
def test_what_is_no_address_is_refused(text, why):
    with pytest.raises(ConfigError, match=why):
        split_address(text)


@pytest.mark.parametrize("text", ["[::1]:8000", "example.org:80", "127.0.0.1:54753"])
def test_addresses_are_written_as_they_are_read(text):
    assert format_address(*split_address(text)) == text
