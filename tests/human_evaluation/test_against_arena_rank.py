"""Ratings, errors and style coefficients equal those of arena-rank 0.1.1."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from human_evaluation.battles import Battles
from human_evaluation.bradley_terry import fit
from tests.oracle.environments import python_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ORACLE = Path(__file__).parents[1] / "oracle" / "arena_rank_ratings.py"
TOLERANCE = 1e-3  # Elo points


def by_arena_rank(battles: Battles, folder: Path) -> dict[str, Any]:
    votes, out = folder / "votes.npz", folder / "out.json"
    columns = {name: getattr(battles, name) for name in ("first", "second", "score", "features")}
    np.savez(votes, **columns)
    subprocess.run([str(python_of("arena_rank")), str(ORACLE), str(votes), str(out)], check=True)
    results: dict[str, Any] = json.loads(out.read_text())
    return results


@pytest.mark.parametrize(("models", "votes"), [(8, 5_000), (40, 20_000)])
def test_ratings_equal_those_of_arena_rank(
    simulate: Callable[..., Battles], tmp_path: Path, models: int, votes: int
) -> None:
    rng = np.random.default_rng(models)
    strengths = rng.normal(0, 0.4, models)
    battles = simulate(strengths, votes, rng, style=np.array([0.3, 0.1, 0.0, -0.05]))
    battles = replace(battles, features=battles.features * (3, 1, 1, 0.1) + (0.2, 0, 0, 0))
    theirs = by_arena_rank(battles, tmp_path)
    weighted = replace(battles, weight=np.array(theirs["style with weights"]["weights"]))
    ours = {
        "plain": fit(battles),
        "plain, default": fit(battles),
        "style": fit(battles, style=True),
        "style with penalty": fit(battles, style=True, style_penalty=1.0),
        "style with weights": fit(weighted, style=True),
    }
    assert ours.keys() == theirs.keys()
    for case, ratings in ours.items():
        expected = theirs[case]
        difference = np.abs(ratings.rating - expected["rating"]).max()
        errors = np.abs(ratings.error - expected["error"]).max()
        print(f"{models} models, {case}: ratings {difference:.1e}, errors {errors:.1e} points")
        assert difference < TOLERANCE
        assert ratings.coefficient == pytest.approx(expected["coefficients"], abs=1e-5)
        if case != "style with penalty":
            assert errors < TOLERANCE  # arena-rank omits the penalty from its Hessian
