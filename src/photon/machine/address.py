"""Addresses: what a user writes, what is bound for it, what a process of this machine dials."""

from __future__ import annotations

import contextlib
import errno
import socket

from photon.errors import ConfigError

DEFAULT_PORT = "8000"
EVERYWHERE = "::"
"""All addresses of this machine, of both families."""
_EVERYWHERE_IPV4 = "0.0.0.0"
BACKLOG = 512
"""Connections that wait to be accepted: all nodes come back at once after a restart."""


def split_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `HOST`, `:PORT` or `[IPV6]:PORT` as host and port; no host: `EVERYWHERE`.

    Raises:
        ConfigError: it is none of them.
    """
    host, separator, port = text.rpartition(":")
    if not separator or (host.count(":") and not host.endswith("]")):
        host, port = text, DEFAULT_PORT
    if text.isdecimal():
        raise ConfigError(f"address {text}: is a number alone; a port is written :{text}")
    if not port.isdecimal() or "/" in text:
        raise ConfigError(f"address {text!r}: give HOST:PORT")
    if not 0 < int(port) < 65_536:
        raise ConfigError(f"address {text!r}: give HOST:PORT, with a port from 1 to 65535")
    try:
        host.encode("idna")
    except UnicodeError:  # a..b
        raise ConfigError(f"address {text!r}: no host can have that name") from None
    return host.strip("[]") or EVERYWHERE, int(port)


def format_address(host: str, port: int) -> str:
    """Host and port as `split_address` reads them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def dialled(host: str) -> str:
    """The address at which this machine reaches its own `listeners` on a host.

    For all addresses it is the loopback one of IPv4, which is bound in any case.
    """
    return "127.0.0.1" if host in (EVERYWHERE, _EVERYWHERE_IPV4) else host


def listeners(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen there: on both families for `EVERYWHERE`, whatever the system makes of
    an IPv6 socket; on each address that a name has.

    Raises:
        ConfigError: the port is taken or not allowed, or the host is none of this machine.
    """
    with contextlib.ExitStack() as close_on_failure:
        found = []
        for family, address in _to_bind(host, port):
            listener = close_on_failure.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listener.bind((address, port))
                listener.listen(BACKLOG)
            except OSError as error:
                raise ConfigError(_refusal(address, port, error)) from None
            found.append(listener)
        close_on_failure.pop_all()
    return found


def require_free(host: str, port: int) -> None:
    """Raises what `listeners` does where nobody could listen."""
    for listener in listeners(host, port):
        listener.close()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _to_bind(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    if host == EVERYWHERE:
        ipv6 = [(socket.AF_INET6, EVERYWHERE)] if _has_ipv6() else []
        return [*ipv6, (socket.AF_INET, _EVERYWHERE_IPV4)]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(
            f"address {host}: is not known here ({error.strerror}); choose another with --listen"
        ) from None
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))


def _refusal(address: str, port: int, error: OSError) -> str:
    where = format_address(address, port)
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {address}: is taken, by a server that still runs perhaps (`photon "
            "runs`); choose another with --listen"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"address {where}: is none of this machine; --listen :{port} takes all it has"
    return f"address {where}: cannot listen there ({error.strerror}); choose another with --listen"


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
