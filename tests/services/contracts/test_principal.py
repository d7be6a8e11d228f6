"""Contract of the principal: the same value in gateway, session and feedback."""

from services.chassis.identity import Caller
from services.contracts.principal import principal_of


def test_the_principal_is_the_hmac_of_tenant_and_user() -> None:
    principal = principal_of("a key of the tests' own", Caller("acme", "ada"))
    assert principal == "106f3c8b591d3f7d4e5bec3aa3ccbe00676c0fd756389a2fcd165fe98c3240a9"
    assert principal != principal_of("another key, of 16 and more", Caller("acme", "ada"))
