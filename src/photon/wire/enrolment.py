"""Who may take part, and as which clients: names, public keys, the clients bound to each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from photon.config.base import Closed
from photon.errors import ConfigError, PayloadError
from photon.wire.facts import first_fault
from photon.wire.messages import Sign
from photon.wire.signatures import MEND_NODE, key_of_node, open_public_key

REGISTER = "nodes.json"


class Enrolled(Closed):
    """A node as the server knows it: its public key (OpenSSH), the clients it may host."""

    public_key: str
    clients: list[int] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Register:
    """The enrolled nodes by name; None: anybody, as any client, unsigned."""

    nodes: dict[str, Enrolled] | None

    def allowed(self, name: str, clients: Iterable[int]) -> set[int]:
        """Those of the clients that the node may host.

        Raises:
            PayloadError: it is not enrolled, or for none of them.
        """
        offered = set(clients)
        if self.nodes is None:
            return offered
        if name not in self.nodes:
            raise PayloadError(f"node {name}: is not enrolled; enrol it with `photon keys add`")
        bound = set(self.nodes[name].clients)
        if not offered & bound:
            raise PayloadError(
                f"node {name}: offers clients {format_clients(offered)}, but its key is bound to "
                f"{format_clients(bound)}"
            )
        return offered & bound

    def key_of(self, name: str) -> str:
        """Public key of an enrolled node, see `wire.signatures`; empty without keys."""
        known = (self.nodes or {}).get(name)
        return key_of_node(known.public_key) if known else ""

    def verify(self, name: str, data: bytes, signature: bytes) -> bool:
        """Whether the node of that name signed the data."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        known = (self.nodes or {}).get(name)
        key = known and open_public_key(known.public_key)
        if key is None:
            return False
        try:
            key.verify(signature, data, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            return False
        return True


def read_register(path: Path) -> Register:
    """The enrolled nodes.

    Raises:
        ConfigError: unreadable, no node, or one without a key.
    """
    nodes = read_nodes(path)
    if not nodes:
        raise ConfigError(f"{path}: no node is enrolled; enrol one with `photon keys add`")
    if bad := [name for name, one in nodes.items() if open_public_key(one.public_key) is None]:
        raise ConfigError(
            f"{path}: the public_key of node {bad[0]} is no ECDSA key; enrol the node anew: "
            "`photon keys remove`, then `photon keys add`"
        )
    return Register(nodes)


def read_nodes(path: Path) -> dict[str, Enrolled]:
    """The enrolled nodes by name; of new keys there are none.

    Raises:
        ConfigError: unreadable.
    """
    try:
        return {
            name: Enrolled.model_validate(value)
            for name, value in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; make the keys with `photon keys init`") from None
    except (ValueError, ValidationError, AttributeError) as error:
        why = first_fault(error) if isinstance(error, ValidationError) else error
        raise ConfigError(
            f"{path}: not a register of nodes ({why}); put it back from a copy, or make new keys "
            "in another folder with `photon keys init` and `photon keys add`"
        ) from None


def signer(path: Path) -> Sign:
    """Signs with a node's private key (OpenSSH, ECDSA).

    Raises:
        ConfigError: no such key.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot read the node's key ({error}); {MEND_NODE}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: not an ECDSA key; make one with `photon keys add`")
    return lambda data: key.sign(data, ec.ECDSA(hashes.SHA384()))


def parse_clients(text: str) -> list[int]:
    """`0-3,7` as numbers in ascending order.

    Raises:
        ConfigError: it is no such list.
    """
    clients: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        if match is None:
            raise ConfigError(f"clients {text!r}: give numbers and ranges, as in 0-3,7")
        span = range(int(match[1]), int(match[2] or match[1]) + 1)
        if not span or len(span) > 1_000_000:
            raise ConfigError(f"clients {text!r}: the range {part.strip()} is empty or too long")
        clients.update(span)
    return sorted(clients)


def format_clients(clients: Iterable[int]) -> str:
    """Numbers as `0-3,7`; what `parse_clients` reads."""
    runs: list[list[int]] = []
    for client in sorted(clients):
        if runs and client == runs[-1][1] + 1:
            runs[-1][1] = client
        else:
            runs.append([client, client])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
