"""Disguises come off: the rules find what they found before (G5: at most 2 points of recall less)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.guardrail.disguise import plain, readings, unmask
from services.guardrail.rules import match_request
from tests.services.guardrail.disguises import DISGUISES
from training.recipes.guardrail.own_texts import harmful_texts

# Every 7th of our own harmful wishes that the rules find undisguised.
FOUND = [text for text in harmful_texts()[::7] if match_request(readings(text))]


def test_there_is_enough_to_measure_on() -> None:
    assert len(FOUND) >= 60


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_costs_the_rules_at_most_two_points_of_recall(name: str) -> None:
    disguised = [DISGUISES[name](text) for text in FOUND]
    assert disguised != FOUND
    missed = [text for text in disguised if not match_request(readings(text))]
    assert len(missed) / len(FOUND) <= 0.02


@given(st.text())
def test_unmasking_keeps_the_place_of_every_character_that_stays(text: str) -> None:
    unmasked = unmask(text)
    places = [unmasked.origin(index) for index in range(len(unmasked.text))]
    assert places == sorted(set(places))
    assert all(0 <= place < len(text) for place in places)


@given(st.text())
def test_the_plain_form_is_stable(text: str) -> None:
    assert plain(plain(text)) == plain(plain(plain(text)))


def test_ordinary_text_has_one_reading_and_numbers_stay_numbers() -> None:
    assert readings("What is the capital of France?") == ("what is the capital of france?",)
    assert all("2024" in reading for reading in readings("What happened in 2024?"))
