"""Whether a server answers, and what it looks like if it does not: a plain connection, TLS, a line.

Flower keeps such reasons in its log, or to itself.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

Address = tuple[str, int]
PROBE_SECONDS = 3.0
REFUSED = "connection refused"
"""Begins what is said where nobody listens."""
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
"""X509_V_ERR_* of OpenSSL."""


def find_trouble(host: str, port: int, authority: Path | None) -> str | None:
    """Why a node cannot talk to the server; None: it answers.

    Args:
        authority: certificate of the server's authority; None: no TLS.
    """
    if "https" in getproxies() and not proxy_bypass(host):
        return None  # Flower goes through the proxy, and says itself what is wrong
    try:
        context = None if authority is None else tls_context(authority)
    except OSError as error:
        return f"{authority}: not a certificate ({error.strerror}); copy the server's ca.pem"
    try:
        with socket.create_connection((host, port), PROBE_SECONDS) as connection:
            return _plain(connection) if context is None else _tls(connection, host, context)
    except socket.gaierror as error:
        return f"name not resolved ({error.strerror}): is {host} spelled right?"
    except ConnectionRefusedError:
        return f"{REFUSED}: nobody listens on port {port} there (yet?)"
    except TimeoutError:
        return f"timed out after {PROBE_SECONDS:.0f} s: a firewall before port {port}, or down?"
    except ConnectionError as error:
        return f"the connection is cut ({error.strerror or error}): something else listens there?"
    except OSError as error:
        return f"unreachable ({error.strerror or error})"


def _plain(connection: socket.socket) -> str | None:
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if connection.recv(5) == b"HTTP/":
            return None
    return "it does not speak plain HTTP: a server with TLS? Leave --insecure out"


def _tls(connection: socket.socket, host: str, context: ssl.SSLContext) -> str | None:
    address = connection.getpeername()[:2]
    try:
        context.wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return _distrust(error, address, host, context)
    except ssl.SSLEOFError:
        return "the connection is cut within the TLS handshake: something between, or busy?"
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"):
            return "it does not speak TLS: a server with --insecure, or something else?"
        return f"TLS fails ({error.reason})"
    return None


def _distrust(
    error: ssl.SSLCertVerificationError, address: Address, host: str, context: ssl.SSLContext
) -> str:
    if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
        return (
            f"its certificate is for {_names(address, context) or 'another name'}, not for "
            f"{host}: dial one of these, or make new keys, in a new folder, on the server with "
            f"`photon keys init --host {host}`"
        )
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        return f"its certificate is not valid now ({error.verify_message}): is the clock right?"
    return (
        f"its certificate is not trusted ({error.verify_message}): copy ca.pem of this server's "
        "keys here"
    )


def _names(address: Address, context: ssl.SSLContext) -> str:
    """The names that a server's certificate is for."""
    context.check_hostname = False
    try:
        with (
            socket.create_connection(address, PROBE_SECONDS) as connection,
            context.wrap_socket(connection) as secure,
        ):
            found = secure.getpeercert() or {}
    except OSError:
        return ""
    return ", ".join(str(name) for _, name in found.get("subjectAltName", ()))


def tls_context(authority: Path) -> ssl.SSLContext:
    """Trusts what this authority has signed; without the strict checks that Python 3.13 adds."""
    context = ssl.create_default_context(cafile=str(authority))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
