"""Identifiers derived by several services: fixed values for the principal and for turns."""

import uuid

from services.chassis.identity import Caller
from services.contracts.identifiers import (
    ERASED,
    FINISHED,
    TURN_NAMESPACE,
    principal_of,
    turn_event_id,
)


def test_the_principal_is_the_hmac_of_tenant_and_user() -> None:
    principal = principal_of("a key of the tests' own", Caller("acme", "ada"))
    assert principal == "106f3c8b591d3f7d4e5bec3aa3ccbe00676c0fd756389a2fcd165fe98c3240a9"
    assert principal != principal_of("another key, of 16 and more", Caller("acme", "ada"))


def test_event_ids_of_a_turn_are_fixed() -> None:
    assert uuid.uuid5(uuid.NAMESPACE_URL, "urn:thumbwheel:turns") == TURN_NAMESPACE
    answer = "01900000-0000-7000-8000-000000000001"
    assert turn_event_id(answer, FINISHED) == "a3261648-a09b-593d-ae87-0c42fae741fa"
    assert turn_event_id(answer, ERASED) == "05044d0c-0317-53b0-9443-e96cd9566183"
