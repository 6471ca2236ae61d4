"""A development certificate authority, the server's certificate, the nodes' keys.

ca.pem, server.pem        what nodes check the server by: copy ca.pem to every node
ca.key, server.key        stay on the server
nodes.json                enrolled nodes: public key and the clients that it may host
NAME.key                  a node's private key: move it to that node
.gitignore                keeps all of them out of a git repository around the folder
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from photon.data.manifest import write_json
from photon.errors import ConfigError
from photon.files import alone
from photon.machine.private_files import keep_from_git, write_private
from photon.wire.enrolment import REGISTER, Enrolled, read_nodes

NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[?[0-9A-Fa-f:]+(\.[0-9]+){0,3}\]?")
RESERVED = ("ca", "server")
"""Names of keys that are no node's."""
VALID = timedelta(days=825)
"""What common TLS clients accept at most."""


def require_host(text: str) -> None:
    """Raises:
    ConfigError: no name or address of a server, which nodes could check it by.
    """
    if _HOST.fullmatch(text) is None:
        raise ConfigError(
            f"--host {text!r}: give a name or an address and no more, in ASCII, as in "
            "server.example.org or 192.0.2.1"
        )


def make_authority(folder: Path, hosts: Sequence[str]) -> None:
    """Make a certificate authority and a server certificate for these names and addresses.

    Raises:
        ConfigError: there are keys already.
    """
    if any((folder / f"{name}.key").exists() for name in RESERVED):
        raise ConfigError(f"{folder}: holds keys already; name another folder to start anew")
    keep_from_git(folder)
    folder.mkdir(parents=True, exist_ok=True)
    authority, key = _new_key(), _new_key()
    name = _name("Photon development CA")
    ca = _certificate(name, name, authority.public_key(), authority, _ca_extensions(authority))
    alternative = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
    server = _certificate(
        _name("Photon server"), name, key.public_key(), authority, [(alternative, False)]
    )
    write_private(folder / "ca.key", _pem(authority))
    write_private(folder / "server.key", _pem(key))
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    write_json(folder / REGISTER, {})


def enrol(folder: Path, name: str, clients: Sequence[int]) -> Path:
    """Make a node's key and bind it to clients.

    Returns:
        Path of the private key, which belongs on the node.

    Raises:
        ConfigError: no authority here, or the name is taken or none for a file; or there is a key
            of that name, of a node that was removed, or whose enrolment was cut off.
    """
    if NODE_NAME.fullmatch(name) is None or name in RESERVED:
        raise ConfigError(
            f"{name!r}: is no name for a node: letters, digits, '.', '_' and '-', beginning with a "
            f"letter or digit, at most 64, and neither of {', '.join(RESERVED)}"
        )
    path = folder / f"{name}.key"
    with _changed(folder) as nodes:
        if name in nodes:
            raise ConfigError(f"{folder}: node {name} is enrolled already; remove it first")
        if path.exists():
            raise ConfigError(f"{path}: is there already, and of no enrolled node; delete it first")
        nodes[name] = Enrolled(public_key=_node_key(path), clients=list(clients))
    return path


def bind(folder: Path, name: str, clients: Sequence[int]) -> None:
    """Bind an enrolled node's key to these clients, from the next start of the server.

    Raises:
        ConfigError: no such node.
    """
    with _changed(folder) as nodes:
        if name not in nodes:
            raise ConfigError(f"{folder}: no node {name} is enrolled")
        nodes[name] = nodes[name].model_copy(update={"clients": list(clients)})


def remove(folder: Path, name: str) -> None:
    """Take a node off the register: its key is worth nothing from the next start of the server.

    Raises:
        ConfigError: no such node.
    """
    with _changed(folder) as nodes:
        if nodes.pop(name, None) is None:
            raise ConfigError(f"{folder}: no node {name} is enrolled")


@contextmanager
def _changed(folder: Path) -> Iterator[dict[str, Enrolled]]:
    """The enrolled nodes, which nobody else changes meanwhile; they are written afterwards.

    Raises:
        ConfigError: unreadable.
    """
    path = folder / REGISTER
    read_nodes(path)  # or there is nothing to lock
    with alone(path):
        nodes = read_nodes(path)
        yield nodes
        write_json(path, {name: one.model_dump() for name, one in nodes.items()})


def _node_key(path: Path) -> str:
    """Make a node's private key; gives the public one."""
    key = _new_key()
    keep_from_git(path.parent)
    write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public.decode()


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _ca_extensions(key: ec.EllipticCurvePrivateKey) -> list[tuple[x509.ExtensionType, bool]]:
    return [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    authority: ec.EllipticCurvePrivateKey,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALID)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(authority, hashes.SHA384())
