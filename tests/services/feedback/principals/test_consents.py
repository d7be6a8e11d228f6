"""Consent to training: the last explicit consent, else the operator's default."""

from sqlalchemy import Engine

from services.feedback.principals.consents import Consent, Consents
from services.feedback.principals.erasures import Erasures

ADA, BOB = "a" * 64, "b" * 64


def test_the_default_applies_until_an_explicit_consent(engine: Engine) -> None:
    for default in (True, False):
        assert Consents(engine, default).get([ADA]) == {ADA: Consent(default, None)}
    consents = Consents(engine, True, now_us=lambda: 7)
    assert consents.set(ADA, False) == Consent(False, 7)
    assert consents.get([ADA, BOB]) == {ADA: Consent(False, 7), BOB: Consent(True, None)}
    assert Consents(engine, False, now_us=lambda: 8).set(ADA, True) == Consent(True, 8)
    assert consents.get([ADA]) == {ADA: Consent(True, 8)}


def test_a_refused_consent_outlives_an_erasure(engine: Engine) -> None:
    consents = Consents(engine, True)
    consents.set(ADA, False)
    Erasures(engine).erase(ADA, "acme")
    assert not consents.get([ADA])[ADA].training


def test_more_principals_than_one_query_names_are_answered(engine: Engine) -> None:
    consents, names = Consents(engine, True), [f"{number:064x}" for number in range(1_000)]
    consents.set(names[-1], False)
    assert [name for name, consent in consents.get(names).items() if not consent.training] == names[
        -1:
    ]
