"""Whether a server knows a node's key: asked before Flower, which keeps the answer to itself."""

from __future__ import annotations

import base64
import http
import http.client
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from photon.machine.probe import tls_context

KNOWN = "/v1/photon/known"
"""What is asked: 204 to whoever signs with an enrolled key, 401 to all others."""
BOUND = "photon-clients"
"""Header of the 204: the clients that the key is bound to, as in 0-3,7."""
MOST_CHARACTERS = 1000
"""Of that header; a longer one is not sent, and not read."""
_SPAN = "[0-9]{1,9}(?:-[0-9]{1,9})?"
KNOCK_SECONDS = 5.0
MAX_CLOCK_SECONDS = 300.0
"""How long Flower takes a signature for fresh."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says of a key.

    Attributes:
        is_known: it said so; neither this nor trouble: it did not answer, or something else.
        trouble: why it does not take the key.
        bound: the clients that the key is bound to, as in 0-3,7; empty: it does not say.
    """

    is_known: bool = False
    trouble: str | None = None
    bound: str = ""

    def find_unbound(self, clients: Iterable[int]) -> list[int]:
        """Those of the clients that the key is not bound to, where that is said.

        A server may say a range of a billion: none is written out.
        """
        parts = [part.partition("-") for part in self.bound.split(",") if part]
        spans = [range(int(first), int(last or first) + 1) for first, _, last in parts]
        return [client for client in clients if spans and not any(client in s for s in spans)]


def find_key_trouble(host: str, port: int, authority: Path, key: Path) -> str | None:
    """Why the server does not take this key; None: it does, or does not say.

    Args: as for `ask_of_key`.
    """
    return ask_of_key(host, port, authority, key).trouble


def ask_of_key(host: str, port: int, authority: Path, key: Path) -> Answer:
    """What the server says of this key.

    Args:
        authority: certificate of the server's authority.
        key: the node's private one.
    """
    context = tls_context(authority)
    connection = http.client.HTTPSConnection(host, port, timeout=KNOCK_SECONDS, context=context)
    try:
        connection.request("POST", KNOWN, headers=_signed(key))
        answer = connection.getresponse()
        date = parsedate_to_datetime(answer.headers["Date"])
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        return Answer()
    finally:
        connection.close()
    if answer.status == http.HTTPStatus.UNAUTHORIZED:
        return Answer(trouble=_refusal(key, date))
    is_known = answer.status == http.HTTPStatus.NO_CONTENT
    return Answer(is_known, bound=_clients_in(answer.headers[BOUND]) if is_known else "")


def _clients_in(said: str | None) -> str:
    """A list of clients that somebody else wrote; empty if it is none, or long."""
    if said is None or len(said) > MOST_CHARACTERS:
        return ""
    return said if re.fullmatch(f"{_SPAN}(?:,{_SPAN})*", said) else ""


def _refusal(key: Path, date: datetime) -> str:
    """What a 401 means, by the date that the server wrote on it."""
    skew = abs((datetime.now(UTC) - date).total_seconds())
    if skew > MAX_CLOCK_SECONDS:
        return f"its clock is {skew:.0f} s from this one's: set the clock that is wrong"
    return (
        f"it does not know {key}: enrol this node there (photon keys add), copy the new key here "
        "and restart the server"
    )


def _signed(path: Path) -> dict[str, str]:
    """Headers that prove a key, as Flower's nodes send them."""
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

    key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC).isoformat()
    parts = {
        FLEET_HTTP_PUBLIC_KEY_HEADER: public_key_to_bytes(key.public_key()),
        FLEET_HTTP_SIGNATURE_HEADER: sign_message(key, now.encode()),
    }
    return {
        TIMESTAMP_HEADER: now,
        "Content-Length": "0",
        **{name: base64.b64encode(value).decode() for name, value in parts.items()},
    }
