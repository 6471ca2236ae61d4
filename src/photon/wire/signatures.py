"""Signatures by the keys of `photon keys`, and the names that public keys go by in a history.

A public key is written as its compressed point, 98 hexadecimal digits; its fingerprint is the
SHA-256 of the same key in DER, which `openssl` shows as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photon.errors import ConfigError, PayloadError, require_package

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.x509 import Certificate

KEY_PATTERN = r"^([0-9a-f]{98})?$"
"""Of a public key; empty: there is none."""
SIGNATURE_PATTERN = r"^([0-9a-f]{16,220})?$"
"""Of a signature: a DER sequence of two numbers; empty: there is none."""

_MEND_SERVER = (
    "put it back from a copy, or make new keys in another folder with `photon keys init`, enrol "
    "the nodes there and copy its ca.pem to them"
)
MEND_NODE = (
    "copy it here once more; if it is lost, enrol the node anew on the server: `photon keys "
    "remove`, then `photon keys add`"
)
"""What to do about a node's private key that cannot be read."""


@dataclass(frozen=True, slots=True)
class Seal:
    """A private key at work.

    Attributes:
        key: its public key.
        certificate: of that key, PEM; empty where nobody asks for one.
    """

    sign: Callable[[bytes], bytes]
    key: str
    certificate: bytes = b""


def server_seal(certificate: Path, key: Path) -> Seal | None:
    """Signs with the server's private key; None where it is not one of `photon keys` (P-384).

    Raises:
        ConfigError: a file cannot be read.
    """
    from cryptography.hazmat.primitives import serialization

    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        pem = certificate.read_bytes()
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{key}: cannot read the server's key ({error})") from None
    return _seal(private, pem) if _is_ours(private) else None


def require_certificate(path: Path) -> Certificate:
    """Read a certificate in PEM, whatever its kind of key.

    Raises:
        ConfigError: it is none.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a certificate ({_short(error)}); {_MEND_SERVER}") from None


def require_pair(certificate: Path, key: Path) -> None:
    """Refuse a server's certificate whose private key is another, before anybody dials in.

    Raises:
        ConfigError: a file is damaged, or they do not belong together.
    """
    from cryptography.hazmat.primitives import serialization

    public = require_certificate(certificate).public_key()
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{key}: cannot read the server's key ({_short(error)}); {_MEND_SERVER}"
        ) from None
    if private.public_key() != public:
        raise ConfigError(f"{key}: is not the key of {certificate.name}; {_MEND_SERVER}")


def _short(error: Exception) -> str:
    """The first sentence of an error, which of libraries may be long."""
    return " ".join(str(error).split()).partition(". ")[0][:80]


def _seal(private: Any, certificate: bytes) -> Seal:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    scheme = ec.ECDSA(hashes.SHA384())
    return Seal(lambda data: private.sign(data, scheme), _point(private.public_key()), certificate)


def _is_ours(key: Any) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec

    kinds = ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey
    return isinstance(key, kinds) and key.curve.name == "secp384r1"


def key_of_certificate(pem: bytes, authority: bytes | None = None) -> str:
    """The public key of a certificate.

    Args:
        authority: certificate that must have issued it, PEM; None: whoever has. How long it is
            valid does not matter here: a history outlives it.

    Raises:
        PayloadError: it is none, of another kind of key, or of another issuer.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        found = x509.load_pem_x509_certificate(pem)
        if authority is not None:
            found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
        key = found.public_key()
    except (ValueError, TypeError) as error:
        raise PayloadError(f"certificate: not one of this authority ({error})") from None
    except InvalidSignature:
        raise PayloadError("certificate: not signed by this authority") from None
    if not _is_ours(key):
        raise PayloadError("certificate: of another kind of key than P-384")
    return _point(key)


def open_public_key(text: str) -> EllipticCurvePublicKey | None:
    """A public key in OpenSSH's form; None: it is none, or not of elliptic curves."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None


def key_of_node(public_key: str) -> str:
    """The public key of an enrolled node, which its register has in OpenSSH's form; empty: it is of
    another kind.
    """
    key = open_public_key(public_key)
    return _point(key) if _is_ours(key) else ""


def own_key(path: Path) -> str:
    """The public key of a node's private one (OpenSSH); empty: it is of another kind.

    Raises:
        ConfigError: it cannot be read.
    """
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot read the node's key ({_short(error)}); {MEND_NODE}"
        ) from None
    return _point(key.public_key()) if _is_ours(key) else ""


def is_signed(key: str, data: bytes, signature: str) -> bool:
    """Whether the owner of a public key has signed these bytes.

    Raises:
        ConfigError: there is no package to check it with.
    """
    require_package("cryptography", "flower", "the signatures here cannot be checked")
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        _public(key).verify(bytes.fromhex(signature), data, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(key: str) -> str:
    """SHA-256 of a public key in DER; empty of none.

    Raises:
        ValueError: it is no public key.
    """
    from cryptography.hazmat.primitives import serialization

    if not key:
        return ""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    encoded = _public(key).public_bytes(serialization.Encoding.DER, form)
    return hashlib.sha256(encoded).hexdigest()


def _public(key: str) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), bytes.fromhex(key))


def _point(key: Any) -> str:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.CompressedPoint
    return key.public_bytes(serialization.Encoding.X962, form).hex()
