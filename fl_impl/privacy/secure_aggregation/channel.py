"""Who speaks and who can read: Ed25519 signatures, X25519 agreements, ChaCha20-Poly1305 boxes."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError, pack, unpack

PROTOCOL = b"pytest-fl secure aggregation 2"


def sign(identity: Ed25519PrivateKey, kind: str, body: bytes) -> bytes:
    """The body with a signature over its kind and itself."""
    return pack(body, identity.sign(pack(PROTOCOL, kind.encode(), body)))


def verified(key: Ed25519PublicKey, kind: str, message: bytes) -> bytes:
    """The body of a signed message. Raises SecureAggregationError where the signature is not that key's."""
    body, signature = unpack(message, 2)
    try:
        key.verify(signature, pack(PROTOCOL, kind.encode(), body))
    except InvalidSignature:
        raise SecureAggregationError(f"the {kind} message was not signed by who should have sent it") from None
    return body


def agree(private: X25519PrivateKey, public: bytes, *context: bytes) -> bytes:
    """A key of 32 bytes that the two owners share, for one purpose: X25519, then HKDF over the context."""
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise SecureAggregationError(f"a public key is not usable: {error}") from error
    return derive(shared, *context)


def derive(secret: bytes, *context: bytes) -> bytes:
    """A key of 32 bytes for one purpose: HKDF-SHA256 over the context."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=pack(PROTOCOL, *context)).derive(secret)


def seal(key: bytes, body: bytes) -> bytes:
    """The body, encrypted and authenticated. A key seals one message: the nonce is constant."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), body, None)


def unseal(key: bytes, message: bytes, name: str) -> bytes:
    """The body that was sealed. Raises SecureAggregationError where a bit of it was changed, or it is another message."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), message, None)
    except (InvalidTag, ValueError):
        raise SecureAggregationError(f"{name} is not authentic: it was changed, truncated or replayed") from None


def mailbox(private: X25519PrivateKey, public: bytes, session: bytes, client: int) -> bytes:
    """The secret from which the server and a client derive the keys of their messages in a session."""
    return agree(private, public, session, b"mailbox", number_bytes(client))


def mailbox_key(secret: bytes, kind: str) -> bytes:
    """The key of the one message of that kind."""
    return derive(secret, b"message", kind.encode())


def number_bytes(number: int) -> bytes:
    """A client's number in four bytes."""
    return number.to_bytes(4, "little")
