"""MQTT over TLS against mosquitto, with a certificate authority made for the test."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.brokers import MosquittoFactory
from tests.protocols.mqtt_peer import Peer, running, settings


class Authority:
    """A self-signed CA that writes `name.pem` and `name.key` into a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(self._name, self._key.public_key(), ca=True).sign(
            self._key, hashes.SHA256()
        )
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, address: str | None = None) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key(), ca=False)
        if address is not None:
            alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(alternative, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        files = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "lab-ca")


def _listener(authority: Authority, address: str = "127.0.0.1") -> tuple[str, ...]:
    certificate, key = authority.issue("broker", address)
    return f"cafile {authority.file}", f"certfile {certificate}", f"keyfile {key}"


async def test_a_trusted_broker(mosquitto: MosquittoFactory, authority: Authority) -> None:
    broker = mosquitto(*_listener(authority))
    given = settings(broker.port, "cell", tls=True, ca_file=authority.file)
    payload = bytes(500_000)
    async with running(Peer(given, [("t", 1)])) as cell:
        await cell.session.publish("t", payload, qos=1)
        assert await cell.hears(1) == [payload]
        assert cell.downs == []
    assert given.address == f"mqtts://127.0.0.1:{broker.port}"


async def test_a_broker_nobody_vouches_for(
    mosquitto: MosquittoFactory, authority: Authority, tmp_path: Path
) -> None:
    broker = mosquitto(*_listener(authority))
    other = Authority(tmp_path, "other-ca")
    async with running(Peer(settings(broker.port, "cell", tls=True, ca_file=other.file)), up=False) as cell:
        await cell.until(lambda: len(cell.downs) == 1)
        assert "its certificate is not trusted" in cell.downs[0]
        assert cell.ups == 0


async def test_a_certificate_for_another_host(mosquitto: MosquittoFactory, authority: Authority) -> None:
    broker = mosquitto(*_listener(authority, "10.1.2.3"))
    given = settings(broker.port, "cell", tls=True, ca_file=authority.file)
    async with running(Peer(given), up=False) as cell:
        await cell.until(lambda: len(cell.downs) == 1)
        assert "not valid for '127.0.0.1'" in cell.downs[0]


async def test_mutual_tls(mosquitto: MosquittoFactory, authority: Authority) -> None:
    broker = mosquitto(*_listener(authority), "require_certificate true")
    certificate, key = authority.issue("cell")
    given = settings(
        broker.port, "cell", tls=True, ca_file=authority.file, cert_file=certificate, key_file=key
    )
    async with running(Peer(given)) as cell:
        assert cell.session.connected
    async with running(
        Peer(settings(broker.port, "cell", tls=True, ca_file=authority.file)), up=False
    ) as nobody:
        await nobody.until(lambda: len(nobody.downs) == 1)
        assert "certificate required" in nobody.downs[0] or "connection broke" in nobody.downs[0]


async def test_tls_against_a_plain_broker(mosquitto: MosquittoFactory, authority: Authority) -> None:
    broker = mosquitto()
    given = settings(broker.port, "cell", tls=True, ca_file=authority.file)
    async with running(Peer(given), up=False) as cell:
        await cell.until(lambda: len(cell.downs) == 1)
        assert "TLS handshake" in cell.downs[0]
