"""DPO and KTO learn a toy task; angry thumbs collapse KTO unless its weights are computed.

The policy starts untrained, so collapsed responses are an endless word and not empty.
"""

from pathlib import Path

import pytest
import torch

from tests.training.rl.toy_preferences import (
    gold_of,
    toy_dpo,
    toy_kto,
    toy_models,
    toy_pairs,
    toy_thumbs,
)
from tests.training.toys import ProgressList
from training.optim.optimizers import OptimizerConfig
from training.rl.reference import PolicyAndReference, WatchConfig
from training.runtime.context import RunContext
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import dpo, kto

FLIPPED = 0.2
STEEP = OptimizerConfig(learning_rate=8e-3, warmup_fraction=0.1)


def no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def learn_from_pairs(pairs: dpo.Pairs, runs: Path) -> tuple[PolicyAndReference, dict[str, float]]:
    models, context = toy_models(), RunContext(DirectoryCheckpoints(runs), ProgressList())
    config = toy_dpo(optimizer=STEEP)
    return models, dpo.train(models, pairs, config, context, no_autocast)[0]


def learn_from_thumbs(
    thumbs: kto.Thumbs, runs: Path, **changes: object
) -> tuple[PolicyAndReference, dict[str, float], str]:
    models, context = toy_models(), RunContext(DirectoryCheckpoints(runs), ProgressList())
    config = toy_kto(**{"optimizer": STEEP, **changes})
    return models, *kto.train(models, thumbs, config, context, no_autocast)


def test_dpo_learns_from_noisy_pairs(tmp_path: Path) -> None:
    assert gold_of(toy_models())[0] < -0.1
    models, figures = learn_from_pairs(toy_pairs(1024, FLIPPED), tmp_path)
    gold, length = gold_of(models)
    assert gold >= 0.35
    assert 5 < length < 12
    assert 1 < figures["kl"] < 12
    assert figures["held_out_accuracy"] > 0.6  # the ceiling is 0.8


def test_control_random_labels_have_no_effect(tmp_path: Path) -> None:
    models, _ = learn_from_pairs(toy_pairs(512, 0.5), tmp_path)
    assert gold_of(models)[0] < 0.1


def test_kto_learns_from_noisy_thumbs(tmp_path: Path) -> None:
    models, figures, _ = learn_from_thumbs(toy_thumbs(1024, FLIPPED), tmp_path, epochs=2)
    gold, length = gold_of(models)
    assert gold >= 0.35
    assert 5 < length < 12
    assert 1 < figures["kl"] < 12


@pytest.mark.parametrize("weights", ["equal", "balanced"])
def test_angry_thumbs_collapse_kto_without_computed_weights(tmp_path: Path, weights: str) -> None:
    """Use a fifth of thumbs up, because disappointed users vote four times as often."""
    thumbs = toy_thumbs(812, FLIPPED, anger=4.0)
    assert thumbs.ups / len(thumbs.train) < 0.25
    watch = WatchConfig(prompts=128, max_response_tokens=12, kl_ceiling_nats=15.0)
    models, figures, stopped = learn_from_thumbs(
        thumbs,
        tmp_path,
        weights=weights,
        watch=watch,
        epochs=7,
        batch_rows=64,
        microbatch_rows=64,
        optimizer=OptimizerConfig(learning_rate=1.2e-2, warmup_fraction=0.1),
        checkpoint_every_steps=10,
    )
    if weights == "equal":
        assert f"{watch.kl_ceiling_nats:g}" in stopped
    else:
        assert stopped == ""
        assert figures["kl"] < 8
        gold, length = gold_of(models)
        assert gold > 0.05
        assert 6 < length < 11
