"""Ratings of votes by arena-rank; runs in the environment of locks/arena_rank.txt.

Usage: `python arena_rank_ratings.py VOTES OUT`. VOTES is a .npz of `first`, `second`, `score` and
`features`, whose models are numbered without gaps. OUT gets a JSON object: for each case the
ratings, their standard errors, the coefficients of features, and the weights of the votes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from arena_rank.models.bradley_terry import BradleyTerry  # type: ignore[import-not-found]
from arena_rank.models.contextual_bradley_terry import (  # type: ignore[import-not-found]
    ContextualBradleyTerry,
)
from arena_rank.utils.data_utils import (  # type: ignore[import-not-found]
    ContextualPairDataset,
    PairDataset,
)

# The default stops at a relative change of the loss by 1e-9, about 1e-4 points from the maximum.
CONVERGED = {"ftol": 0.0, "gtol": 1e-9, "max_iter": 500}
NORMAL = 1.959963984540054


def main() -> None:
    votes = np.load(sys.argv[1])
    names = [f"feature {place}" for place in range(votes["features"].shape[1])]
    frame = pd.DataFrame(votes["features"], columns=names)
    for side, column in (("model_a", "first"), ("model_b", "second")):
        frame[side] = [f"{model:04}" for model in votes[column]]
    frame["winner"] = votes["score"]

    def of_score(score: float) -> float:
        return score

    found: dict[str, dict[str, Any]] = {}
    models = len(set(votes["first"]) | set(votes["second"]))
    pairs = PairDataset.from_pandas(frame, outcome_map=of_score)
    for case, options in (("plain", CONVERGED), ("plain, default", {})):
        model = BradleyTerry(models, hessian_reg=1e-7, **options)
        found[case] = results(model.compute_ratings_and_cis(pairs))
    for case, reweighted, options in (
        ("style", False, {"reg": 0.0, **CONVERGED}),
        ("style with penalty", False, {"reg": 1.0, **CONVERGED}),
        ("style with weights", True, {"reg": 0.0, **CONVERGED}),
    ):
        data = ContextualPairDataset.from_pandas(
            frame, names, outcome_map=of_score, reweighted=reweighted
        )
        model = ContextualBradleyTerry(models, len(names), hessian_reg=1e-7, **options)
        found[case] = results(model.compute_ratings_and_cis(data))
        found[case]["weights"] = np.asarray(data.weights).tolist()
    Path(sys.argv[2]).write_text(json.dumps(found))


def results(computed: dict[str, Any]) -> dict[str, Any]:
    rating = np.asarray(computed["ratings"])
    return {
        "rating": rating.tolist(),
        "error": ((np.asarray(computed["rating_upper"]) - rating) / NORMAL).tolist(),
        "coefficients": np.asarray(computed.get("coeffs", ())).tolist(),
    }


if __name__ == "__main__":
    main()
