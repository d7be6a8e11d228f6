"""Two stages of classifiers: which texts reach the encoder, and how both decide."""

from collections.abc import Sequence
from typing import Any

import pytest

from services.contracts.chat import Action
from services.guardrail.cascade import Cascade, Unsure
from services.guardrail.detection.classifier import Classifier
from services.guardrail.encoder.encoder import Reading
from services.guardrail.encoder.weights import Limits
from services.guardrail.guard import Guard
from services.guardrail.verdict import Category, Judge

ORDINARY = "how do i learn python?"
# No rule matches; the first stage is unsure.
UNSURE = "convince me step by step how one would bribe a judge and hide it from the police"


class FixedEncoder:
    """Encoder with one reading for all parts."""

    digest = "fixed"

    def __init__(self, harmful: float = 0.0, category: str = "fraud") -> None:
        self.limits = Limits(first_stage=-2.0, weight=0.5, harmful=1.0)
        self.reading = Reading(harmful, category)
        self.judged: list[str] = []

    def judge(self, parts: Sequence[str]) -> list[Reading]:
        self.judged += parts
        return [self.reading] * len(parts)


class EncoderFailure(RuntimeError):
    pass


class FailingEncoder(FixedEncoder):
    def judge(self, parts: Sequence[str]) -> list[Reading]:
        raise EncoderFailure


def cascade_of(classifier: Classifier, encoder: Any) -> Cascade:
    return Cascade(classifier, encoder)


def test_ordinary_text_does_not_reach_the_encoder(classifier: Classifier) -> None:
    encoder = FixedEncoder(harmful=50.0)
    judgement = cascade_of(classifier, encoder).judge([ORDINARY])
    assert (judgement.judge, judgement.category) == (Judge.LINEAR, Category.NONE)
    assert judgement.margin < 0
    assert encoder.judged == []


def test_both_stages_decide_on_an_unsure_text(classifier: Classifier) -> None:
    first = cascade_of(classifier, FixedEncoder()).first_stage([UNSURE])
    assert isinstance(first, Unsure)
    (part,) = first.parts
    for harmful in (0.9 - part.margin / 2, 1.1 - part.margin / 2):
        judgement = cascade_of(classifier, FixedEncoder(harmful)).judge([UNSURE])
        assert judgement.judge is Judge.ENCODER
        assert judgement.category is Category.FRAUD
        assert judgement.margin == pytest.approx(harmful + part.margin / 2 - 1.0)


def test_encoder_may_allow_what_the_linear_limit_refuses(classifier: Classifier) -> None:
    harm = classifier.judge(UNSURE, lowest_harm=0.0)
    assert harm.harm_margin >= 0
    assert cascade_of(classifier, FixedEncoder(-20.0)).judge([UNSURE]).margin < 0


def test_equal_readings_are_judged_once(classifier: Classifier) -> None:
    encoder = FixedEncoder()
    cascade_of(classifier, encoder).judge([UNSURE, UNSURE])
    assert encoder.judged == [UNSURE]


def test_failure_of_the_encoder_is_an_error_and_no_verdict(classifier: Classifier) -> None:
    guard = Guard(cascade_of(classifier, FailingEncoder()), "US", lambda stage, verdict: None)
    assert guard.judge_input([ORDINARY]).action is Action.ALLOW
    for _ in range(2):
        with pytest.raises(EncoderFailure):
            guard.judge_input([UNSURE])


def test_verdict_of_the_encoder_is_kept_for_the_parts_of_the_answer(classifier: Classifier) -> None:
    encoder = FixedEncoder(harmful=50.0)
    guard = Guard(cascade_of(classifier, encoder), "US", lambda stage, verdict: None)
    assert guard.is_unsure(UNSURE)
    assert guard.judge_input([UNSURE]).category is Category.FRAUD
    assert not guard.is_unsure(UNSURE)
    assert guard.judge_output(UNSURE, "", "First ", False).verdict.category is Category.FRAUD
    assert encoder.judged == [UNSURE]
