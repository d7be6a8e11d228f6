"""Classifiers of requests in two stages.

The linear classifier judges every text. The encoder judges the parts around the windows which the
first stage takes for possible harm, and both results together decide. Injections are decided by the
first stage: docs/decisions/guardrail-encoder.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.guardrail.detection.classifier import Classifier, read_classifier
from services.guardrail.encoder.encoder import Encoder
from services.guardrail.encoder.parts import Part, parts
from services.guardrail.encoder.weights import base_directory, read_weights
from services.guardrail.verdict import Category, Judge, Judgement


@dataclass(frozen=True)
class Unsure:
    """Result of the first stage for a text that the second stage has to judge."""

    parts: tuple[Part, ...]


class Cascade:
    """Both stages with the limits of the encoder's artifact; threads may share it."""

    def __init__(self, classifier: Classifier, encoder: Encoder) -> None:
        self._classifier = classifier
        self._encoder = encoder
        self._limits = encoder.limits
        self.digest = f"{classifier.digest} {encoder.digest}"

    def judge(self, readings: Sequence[str], *, is_instruction: bool = False) -> Judgement:
        """Judge the readings of one text by both stages; arguments as of `first_stage`."""
        first = self.first_stage(readings, is_instruction=is_instruction)
        return self.second_stage(first) if isinstance(first, Unsure) else first

    def first_stage(
        self, readings: Sequence[str], *, is_instruction: bool = False
    ) -> Judgement | Unsure:
        """Judge the readings of one text by the linear classifier.

        Args:
            readings: the text in the form of `normalization.plain`, and without obfuscation.
            is_instruction: the text is a system message, with higher limits for injection.
        """
        limit = self._limits.first_stage
        predictions = [
            self._classifier.judge(reading, lowest_harm=limit, is_instruction=is_instruction)
            for reading in readings
        ]
        injection = max(prediction.injection_margin for prediction in predictions)
        if injection >= 0:
            return Judgement(Category.INJECTION, injection, Judge.LINEAR)
        found = [
            part
            for reading, prediction in zip(readings, predictions, strict=True)
            for part in parts(reading, prediction.windows)
        ]
        if found:
            return Unsure(tuple(dict.fromkeys(found)))
        harm = max(prediction.harm_margin for prediction in predictions)
        return Judgement(Category.NONE, max(harm - limit, injection), Judge.LINEAR)

    def second_stage(self, unsure: Unsure) -> Judgement:
        """Judge the parts by the encoder, and return the judgement of the worst."""
        readings = self._encoder.judge([part.text for part in unsure.parts])
        return max(
            (
                Judgement(
                    Category(reading.category),
                    reading.harmful + self._limits.weight * part.margin - self._limits.harmful,
                    Judge.ENCODER,
                )
                for part, reading in zip(unsure.parts, readings, strict=True)
            ),
            key=lambda judgement: judgement.margin,
        )


def read_cascade(classifier: Path, encoder: Path) -> Cascade:
    """Read both stages from their artifacts, and the base of the encoder from its package.

    Raises:
        WeightsError: a file is missing, or differs from its manifest.
    """
    weights = read_weights(encoder, base_directory())
    return Cascade(read_classifier(classifier), Encoder(weights))
