"""Normalization: obfuscated requests still match the rules (G5: at most 2 points less recall)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.guardrail.detection.folding import fold_characters
from services.guardrail.detection.normalization import plain, variants
from services.guardrail.detection.rules import match_request
from tests.services.guardrail.obfuscations import OBFUSCATIONS
from training.recipes.guardrail.corpus import harmful_texts

# Every 7th of the harmful requests of the recipe that match a rule without obfuscation.
FOUND = [text for text in harmful_texts()[::7] if match_request(variants(text))]


def test_sample_for_recall_is_large_enough() -> None:
    assert len(FOUND) >= 60


@pytest.mark.parametrize("name", OBFUSCATIONS)
def test_obfuscation_costs_the_rules_at_most_two_points_of_recall(name: str) -> None:
    obfuscated = [OBFUSCATIONS[name](text) for text in FOUND]
    assert obfuscated != FOUND
    missed = [text for text in obfuscated if not match_request(variants(text))]
    assert len(missed) / len(FOUND) <= 0.02


@given(st.text())
def test_folded_characters_map_to_increasing_positions_of_the_original(text: str) -> None:
    folded = fold_characters(text)
    positions = [folded.origin(index) for index in range(len(folded.text))]
    assert positions == sorted(set(positions))
    assert all(0 <= position < len(text) for position in positions)


@given(st.text())
def test_plain_form_is_stable(text: str) -> None:
    assert plain(plain(text)) == plain(plain(plain(text)))


def test_ordinary_text_has_one_variant_and_keeps_its_numbers() -> None:
    assert variants("What is the capital of France?") == ("what is the capital of france?",)
    assert all("2024" in variant for variant in variants("What happened in 2024?"))
