"""Digests and signatures of a release, verified with sha256sum and openssl."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from infra.release.errors import ReleaseError
from infra.release.signing import PUBLIC_KEY, SIGNATURE, read_key, sign, write_sums
from tests.support.errors import refused


def pem(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b""
) -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    release = tmp_path / "release"
    (release / "images").mkdir(parents=True)
    (release / "chart.tgz").write_bytes(b"chart")
    (release / "images" / "services.tar").write_bytes(b"services")
    return release


def verified(folder: Path) -> bool:
    """Run the commands of docs/releasing.md."""
    command = (
        f"base64 -d {SIGNATURE} > ../signature && openssl dgst -sha256 -verify {PUBLIC_KEY} "
        "-signature ../signature SHA256SUMS && sha256sum --check --strict --quiet SHA256SUMS"
    )
    return subprocess.run(["bash", "-c", command], cwd=folder, check=False).returncode == 0


def test_openssl_verifies_the_signature_until_a_file_changes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    sums = write_sums(folder)
    assert [line.split()[1] for line in sums.read_text().splitlines()] == [
        "chart.tgz",
        "images/services.tar",
    ]
    sign(sums, read_key(tmp_path / "key.pem"))
    assert verified(folder)
    (folder / "images" / "services.tar").write_bytes(b"other")
    assert not verified(folder)
    write_sums(folder)
    assert not verified(folder), "the digests match, but the signature is of the earlier ones"


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())):
        path.write_bytes(pem(key))
        with refused(ReleaseError, field="key", limit="ECDSA P-256"):
            read_key(path)
    for content in (b"no key", pem(ec.generate_private_key(ec.SECP256R1()), b"password")):
        path.write_bytes(content)
        with refused(ReleaseError, field="key", reason="MALFORMED"):
            read_key(path)
