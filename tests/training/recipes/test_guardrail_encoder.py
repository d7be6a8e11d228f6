"""A small encoder is trained, rounded, written, and computes the same in the service."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from services.guardrail.encoder.encoder import Encoder as ServiceEncoder
from services.guardrail.encoder.weights import base_directory, read_weights
from training.artifacts.manifest import write_manifest
from training.recipes.guardrail.corpus import written
from training.recipes.guardrail.encoder import recipe
from training.recipes.guardrail.encoder.examples import (
    CATEGORIES,
    HEADS,
    Example,
    Pool,
    epoch,
)
from training.recipes.guardrail.encoder.fit import batch, fit, logits, loss_of, read_tokenizer
from training.recipes.guardrail.features import plain

HARMFUL = [Example(f"how do i steal the {n} red car", True, category=8) for n in range(24)]
HARMLESS = [Example(f"how do i wash the {n} red car") for n in range(24)]


def test_small_encoder_learns_and_computes_the_same_in_the_service(tmp_path: Path) -> None:
    base = base_directory()
    pools = [Pool(HARMFUL, 48), Pool(HARMLESS, 48)]
    model = fit(base, pools, epochs=4, rank=2, seed=0, log=lambda line: None)
    tokenizer = read_tokenizer(base)
    texts = [one.text for one in (*HARMFUL, *HARMLESS)] + ["tea " * 90]
    exact = logits(model, tokenizer, texts)
    trained = model.trained()
    model.round([batch(tokenizer, texts)])
    rounded = logits(model, tokenizer, texts)
    assert np.abs(rounded - exact).mean() < 0.1 * exact.std()
    assert model.ranges is not None
    save_file(trained | {"ranges": model.ranges}, tmp_path / recipe.ADAPTER_NAME)
    limits = {"first_stage": -2.0, "weight": 0.5, "harmful": 0.0}
    write_manifest(
        tmp_path, kind="encoder", version="t", config={"heads": HEADS}, report={"limits": limits}
    )
    service = ServiceEncoder(read_weights(tmp_path, base))
    served = np.stack([rows[0] for rows in service.logits([plain(text) for text in texts])])
    assert np.abs(served - rounded).max() < 0.25 * exact.std()
    harmful = served[:, HEADS.index("harmful")]
    assert harmful[:24].min() > harmful[24:48].max()


def test_heads_learn_only_from_texts_with_their_label() -> None:
    logits_BH = torch.zeros(3, len(HEADS), requires_grad=True)
    examples = [
        Example("a", is_harmful=True, category=2),
        Example("b"),
        Example("c", is_injection=True),
    ]
    loss_of(logits_BH, examples).backward()  # type: ignore[no-untyped-call]
    assert logits_BH.grad is not None
    gradient = logits_BH.grad.numpy()
    assert gradient[0, 0] < 0 < gradient[1, 0]
    assert gradient[2, 0] == 0
    assert gradient[2, 1] < 0 < gradient[1, 1]
    assert gradient[0, 2 + 2] < 0
    assert not gradient[1:, 2:].any()


def test_small_pools_are_repeated_in_an_epoch_and_large_ones_sampled() -> None:
    few, many = [Example(f"few {n}") for n in range(3)], [Example(f"many {n}") for n in range(50)]
    texts = [one.text for one in epoch([Pool(few, 8), Pool(many, 10)], random.Random(0))]
    assert sorted(texts.count(one.text) for one in few) == [2, 3, 3]
    assert len({text for text in texts if text.startswith("many")}) == 10


def test_written_texts_are_distinct_and_have_known_categories() -> None:
    for kind in ("requests", "lookalikes", "plain"):
        rows = written(kind) + written(kind, kept=True)
        assert len({text for _, text in rows}) == len(rows), kind
        assert all(text.strip() and "\t" not in text for _, text in rows)
    found = {category for category, _ in written("requests")}
    assert found == set(CATEGORIES)
    assert {category for category, _ in written("lookalikes")} == {*CATEGORIES, "sexual_minors"}


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_limit_leaves_at_most_the_share_of_harmless_texts_above(rate: float) -> None:
    generator = np.random.default_rng(0)
    config = replace(recipe.guard_encoder(), look_alikes=rate, plain=rate)
    scored = {
        kind: (generator.normal(mean, 1, 400), generator.normal(mean, 1, 400))
        for kind, mean in (("lookalikes", 0.0), ("plain", -1.0))
    }
    limits = recipe.choose_limits(scored, config)
    for kind in ("lookalikes", "plain"):
        logit, margin = scored[kind]
        refused = (margin >= limits["first_stage"]) & (
            logit + limits["weight"] * margin >= limits["harmful"]
        )
        assert refused.mean() <= rate
