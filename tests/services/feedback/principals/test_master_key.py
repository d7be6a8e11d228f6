"""Derivations from the master key never change, since stored data depend on them."""

import pytest

from services.feedback.principals.master_key import MasterKey, MasterKeyError
from tests.services.feedback.samples import MASTER

PRINCIPAL, KEY = "a" * 64, bytes(range(32))
# Wrapped under a nonce of zeros; the value never changes.
WRAPPED = bytes.fromhex(
    "000000000000000000000000c377d15633a084329db2824dc455c1876ec95da4092e932e229b8784ec678c24"
    "35dc070f3b268490d1c0802df254c349"
)
FINGERPRINT = bytes.fromhex("c905030bd8bf491f5159c254cfed688c1999e5016f3b41b13b0a43d39c401025")


def test_keys_wrapped_by_earlier_versions_unwrap() -> None:
    master = MasterKey(MASTER, bytes)
    assert master.unwrap(WRAPPED, "acme", PRINCIPAL) == KEY
    assert master.wrap(KEY, "acme", PRINCIPAL) == WRAPPED
    assert master.fingerprint(bytes(32)) == FINGERPRINT


def test_wrapping_is_randomised() -> None:
    master = MasterKey(MASTER)
    assert master.wrap(KEY, "acme", PRINCIPAL) != master.wrap(KEY, "acme", PRINCIPAL)
    assert master.unwrap(master.wrap(KEY, "acme", PRINCIPAL), "acme", PRINCIPAL) == KEY


@pytest.mark.parametrize(
    ("wrapped", "tenant", "principal"),
    [
        (WRAPPED, "other", PRINCIPAL),
        (WRAPPED, "acme", "b" * 64),
        (WRAPPED[:-1] + b"\0", "acme", PRINCIPAL),
        (WRAPPED[:30], "acme", PRINCIPAL),
    ],
)
def test_foreign_or_damaged_keys_do_not_unwrap(wrapped: bytes, tenant: str, principal: str) -> None:
    with pytest.raises(MasterKeyError):
        MasterKey(MASTER).unwrap(wrapped, tenant, principal)


def test_no_tenant_name_yields_the_fingerprint_key() -> None:
    master = MasterKey(MASTER, bytes)
    assert (
        len(
            {
                master.wrap(KEY, tenant, PRINCIPAL)
                for tenant in ("", "acme", "thumbwheel.feedback.fingerprints")
            }
        )
        == 3
    )
