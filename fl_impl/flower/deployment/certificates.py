"""Certificates and keys for a deployment on one machine, made on the spot: a CA, a server's, and one key for each node."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

DAY: Final = dt.timedelta(days=1)


@dataclass(frozen=True)
class Certificates:
    """The files of a server that says who it is."""

    authority: Path
    """The CA's certificate, which everybody trusts."""
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """A CA and a certificate of 127.0.0.1 and localhost signed by it, in a folder; the CA's key is thrown away."""
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = signed("pytest-fl CA", ca_key, None, ca_key)
    own = signed("localhost", key, ca, ca_key)
    made.authority.write_bytes(ca.public_bytes(Encoding.PEM))
    made.certificate.write_bytes(own.public_bytes(Encoding.PEM))
    private(made.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def signed(
    name: str, key: ec.EllipticCurvePrivateKey, ca: x509.Certificate | None, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """A certificate of a name, valid for a day, by the CA; of the CA itself where there is none yet."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if ca is None else ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if ca is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(places), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def make_node_key(path: Path) -> bytes:
    """Write a node's private key; its public key as PEM, which the SuperLink is told."""
    key = ec.generate_private_key(ec.SECP384R1())
    private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_bytes(content)
