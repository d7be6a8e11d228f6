"""Estimates of label noise from repeated judgements."""

import random
from dataclasses import replace

import pytest

from training.data.chat import Message
from training.data.examples import PairExample
from training.rl.label_noise import estimate_label_noise, noise_ceiling

ASK = (Message("user", "?"),)


def labels(items: int, repeats: int, noise: float) -> list[PairExample]:
    dice = random.Random(1)
    pairs = []
    for item in range(items):
        for _ in range(repeats):
            better, worse = f"good {item}", f"bad {item}"
            if dice.random() < noise:
                better, worse = worse, better
            pairs.append(PairExample(ASK, better, worse, f"prompt-{item}"))
    return pairs


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.25])
def test_flip_rate_is_recovered(noise: float) -> None:
    found = estimate_label_noise(labels(800, 3, noise))
    assert found == pytest.approx(noise, abs=0.02)
    assert found is not None and noise_ceiling(found) == pytest.approx(1 - noise, abs=0.02)


def test_random_labels_give_a_noise_of_one_half() -> None:
    assert estimate_label_noise(labels(1, 2, 0.0) + labels(1, 0, 0)) == 0.0
    pair = labels(1, 1, 0.0)[0]
    opposite = PairExample(ASK, pair.rejected, pair.chosen, pair.prompt_id)
    assert estimate_label_noise([pair, opposite]) == 0.5


def test_ties_and_pairs_of_equal_texts_are_ignored() -> None:
    pairs = labels(50, 3, 0.2)
    ties = [replace(pair, tie=True) for pair in labels(50, 4, 0.5)]
    same = [replace(pair, rejected=pair.chosen) for pair in labels(50, 4, 0.0)]
    assert estimate_label_noise([*ties, *pairs, *same]) == estimate_label_noise(pairs)
    assert estimate_label_noise(ties) is None


def test_noise_is_unknown_without_repeated_pairs() -> None:
    assert estimate_label_noise(labels(10, 1, 0.2)) is None
