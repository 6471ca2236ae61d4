"""Keys that two clients agree on, and the masks and seals that are made of them.

X25519 and HKDF with SHA-256 give a key, ChaCha20 makes a mask of it, piece by piece, of any length;
ChaCha20-Poly1305 seals what goes from one client to another through the server. `cryptography`
makes them, which a run without secure aggregation does without.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import NamedTuple

import numpy as np

from photon.errors import PayloadError

KEY_BYTES = 32
_NONCE = bytes(12)
"""Of seals: each has a key of its own."""


class Mask(NamedTuple):
    """A stream of numbers that is added, or taken away where `sign` is -1."""

    key: bytes
    sign: int


def public_of(private: bytes) -> bytes:
    """The public key of an X25519 private key, 32 bytes each."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def commitment(secret: bytes) -> bytes:
    """What fixes a secret of 32 random bytes, and does not tell it."""
    return hashlib.sha256(b"photon secure self\0" + secret).digest()


def agreed(private: bytes, public: bytes, purpose: bytes, context: bytes) -> bytes:
    """The key that two clients share for a purpose.

    Args:
        context: of the session; with another one the key is another.

    Raises:
        PayloadError: the public key is one of those with which every secret is the same.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    own, other = (
        X25519PrivateKey.from_private_bytes(private),
        X25519PublicKey.from_public_bytes(public),
    )
    try:
        secret = own.exchange(other)
    except ValueError:
        raise PayloadError("secure aggregation: a public key of no secret") from None
    return derived(secret, purpose, context)


def derived(secret: bytes, purpose: bytes, context: bytes) -> bytes:
    """A key of 32 bytes for one purpose, from a secret."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = b"photon secure aggregation 1\0" + purpose
    return HKDF(SHA256(), KEY_BYTES, salt=context, info=info).derive(secret)


def seal(key: bytes, text: bytes, context: bytes) -> bytes:
    """Encrypt and authenticate the one text that a key is for."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key).encrypt(_NONCE, text, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Raises:
    PayloadError: it was not sealed so.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, context)
    except InvalidTag:
        raise PayloadError("secure aggregation: a share that its sender has not sealed") from None


def pair_mask(own: int, other: int, private: bytes, public: bytes, context: bytes) -> Mask:
    """What a client adds for another, who takes the same away."""
    low, high = sorted((own, other))
    key = agreed(private, public, b"pair %d %d" % (low, high), context)
    return Mask(key, 1 if own < other else -1)


def self_mask(own: int, secret: bytes, context: bytes) -> Mask:
    """What a client adds for itself, so that one who is taken for lost is masked all the same."""
    return Mask(derived(secret, b"self %d" % own, context), 1)


def add(mask: Mask, piece: int, numbers: np.ndarray) -> None:
    """Add a piece of a mask to whole numbers, in place, modulo what their type holds.

    Args:
        piece: its number in the vector: each has a stream of its own, so that pieces can be made in
            any order, and at once.
        numbers: [elements] unsigned, little endian, contiguous.
    """
    if not numbers.size:
        return
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    stream = Cipher(algorithms.ChaCha20(mask.key, bytes(4) + piece.to_bytes(12, "little")), None)
    drawn = np.empty_like(numbers)
    stream.encryptor().update_into(_zeros(numbers.nbytes), drawn.view(np.uint8).data)
    (np.add if mask.sign > 0 else np.subtract)(numbers, drawn, out=numbers)


def _zeros(size: int) -> memoryview:
    return _kept_zeros((size - 1).bit_length())[:size]


@cache
def _kept_zeros(bits: int) -> memoryview:
    return memoryview(bytes(1 << bits))
