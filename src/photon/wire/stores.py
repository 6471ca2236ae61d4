"""Which object stores a node may be sent to: those that its owner has named, and no other host."""

from __future__ import annotations

import os
import re

from photon.config.schema import Machine
from photon.core.text import cleaned
from photon.errors import ConfigError, PayloadError
from photon.wire.messages import Ticket

ADDRESS = re.compile(
    r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(?=[/?#]|\Z)", re.I
)
PORTS = {"http": "80", "https": "443"}

Origin = tuple[str, str, str]
"""Scheme, host and port."""


def allowed_stores(photon: Machine) -> frozenset[Origin]:
    """The stores of `photon.transport_hosts`, or else the one of AWS_ENDPOINT_URL.

    Raises:
        ConfigError: a host that is none.
    """
    if photon.transport_hosts is None:
        return frozenset(filter(None, [_origin(os.environ.get("AWS_ENDPOINT_URL", ""))]))
    found: set[Origin] = set()
    for text in photon.transport_hosts:
        url = (text if "://" in text else f"https://{text}").removesuffix("/")
        origin = _origin(url)
        if origin is None or not ADDRESS.fullmatch(url):  # a bucket would not be looked at
            raise ConfigError(
                f"photon.transport_hosts: {text!r} is no HOST, HOST:PORT or http://HOST:PORT"
            )
        found.add(origin)
    return frozenset(found)


def urls_of(ticket: Ticket) -> list[str]:
    """Addresses of the parts of a payload; none where they are not in an object store.

    Raises:
        PayloadError: they are no addresses.
    """
    urls = ticket.get("urls", [])
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise PayloadError("payload: its ticket has no URLs")
    return urls


def require_allowed(ticket: Ticket, stores: frozenset[Origin]) -> None:
    """Refuse a ticket whose URLs lead anywhere else.

    Raises:
        PayloadError: the first one that does; the message names the key that allows its host.
    """
    for url in urls_of(ticket):
        if _origin(url) not in stores:
            where = cleaned("/".join(re.split("[?#]", url)[0].split("/")[:3]), 80)
            raise PayloadError(
                f"the server sends this node to {where}, which is in no store of its "
                "photon.transport_hosts; if that is the one agreed on with the server's operator, "
                "name its host there"
            )


def _origin(url: str) -> Origin | None:
    """None of what is no web address, or could be read as that of another host."""
    match = ADDRESS.match(url)
    if match is None:
        return None
    scheme = match[1].lower()
    return scheme, match[2].lower(), match[3] or PORTS[scheme]
