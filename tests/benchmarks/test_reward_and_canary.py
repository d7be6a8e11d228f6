"""Correlations, and the candidates of the benchmark of reward model and canary."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loop.reward_and_canary import (
    VARIANTS,
    flip,
    gains,
    interval,
    pearson,
    ranks,
    recipe_of,
    spearman,
    table,
)
from training.recipes.recipe import Plan

PLAN = Plan("nano-1", Path("run"), Path("nano-0"))


def test_correlations_of_known_values() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 5.0]), np.array([1.0, 4.0, 2.0, 3.0])
    assert ranks(x).tolist() == [0, 1.5, 1.5, 3]
    assert pearson(x, y) == pytest.approx(3.0 / math.sqrt(9.0 * 5.0))
    assert spearman(x, y) == pytest.approx(3.0 / math.sqrt(4.5 * 5.0))
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert math.isnan(pearson(x, np.ones(4)))


def test_interval_contains_the_correlation_and_shrinks_with_candidates() -> None:
    rng = np.random.default_rng(4)
    widths = []
    for count in (10, 200):
        x = rng.normal(size=count)
        value, low, high = interval(x, x + rng.normal(size=count), pearson)
        assert low < value < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_candidates_differ_in_training_and_have_the_same_data() -> None:
    configs = {name: recipe_of(variant)(PLAN) for name, variant in VARIANTS.items()}
    assert len(configs) >= 12
    trained = {repr((c.sft, c.ppo, VARIANTS[name].flipped)) for name, c in configs.items()}
    assert len(trained) == len(configs)
    first = configs["recipe"]
    for config in configs.values():
        assert (config.snapshot, config.sets) == (first.snapshot, first.sets)
        assert config.judge == first.judge
        assert config.evaluation == first.evaluation


def test_share_of_pairs_is_exchanged(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(200)]
    for share, least, most in ((0.0, 0, 0), (0.4, 50, 110), (1.0, 200, 200)):
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        flip(pairs, share)
        found = [json.loads(line) for line in pairs.read_text().splitlines()]
        exchanged = sum(row["chosen"].startswith("bad") for row in found)
        assert least <= exchanged <= most
        assert [sorted(row.values()) for row in found] == [sorted(row.values()) for row in rows]


def test_table_ranks_candidates_against_the_pooled_stable_version() -> None:
    rows = []
    for number in range(4):
        up = 20 + 10 * number
        rows.append(
            {
                "name": f"candidate {number}",
                "reward": float(number),
                "judge": 0.8 - 0.1 * number,
                "preference": {"rate": 0.5 + 0.1 * number},
                "tokens": 10.0,
                "gate": {
                    "verdict": "passed",
                    "checks": [{"name": "knowledge", "result": "pass", "passed": number > 0}],
                },
                "canary": {
                    "users": {"up": up, "down": 100 - up},
                    "stable_users": {"up": 30 + number, "down": 70 - number},
                    "verdict": "wait",
                },
            }
        )
    assert gains(rows) == pytest.approx([-0.115, -0.015, 0.085, 0.185])
    lines = list(table(rows))
    assert lines[1].startswith("candidate 3")
    text = "\n".join(lines)
    assert "all, 4 candidates: reward against canary, pearson: 1.000" in text
    assert "all, 4 candidates: judge against canary, spearman: -1.000" in text
    assert "knowledge kept, 3 candidates: judge against canary, pearson: -1.000" in text
