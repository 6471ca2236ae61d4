"""Whether a server knows a node's key: asked before Flower, which keeps the answer to itself."""

from __future__ import annotations

import base64
import http
import http.client
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from photon.machine.probe import tls_context

KNOWN = "/v1/photon/known"
"""What is asked: 204 to whoever signs with an enrolled key, 401 to all others."""
KNOCK_SECONDS = 5.0
MAX_CLOCK_SECONDS = 300.0
"""How long Flower takes a signature for fresh."""


def find_key_trouble(host: str, port: int, authority: Path, key: Path) -> str | None:
    """Why the server does not take this key; None: it does, or does not say.

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
        return None
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.UNAUTHORIZED:
        return None
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
