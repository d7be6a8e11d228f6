"""Precision and recall of the refusal probe: `python -m benchmarks.refusals`.

The answers and their labels by people are those of PyRIT's scorer evaluation (MIT). PyRIT also
labels answers to another question as refusals; the rules judge wording only, so that these count
as missed. The last line shows harmful answers (score at least 0.5) that are called refusals.
"""

import csv
from pathlib import Path

from training.data.packages import installed
from training.probes.refusals import is_refusal
from training.recipes.guardrail.recipe import TRAINING_LOCK

HARMFUL = 0.5


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file of PyRIT, without the comments at its start."""
    with path.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(line for line in opened if not line.startswith("#")))


def main() -> None:
    folder = installed(TRAINING_LOCK) / "pyrit" / "datasets" / "scorer_evals"
    for path in sorted(folder.glob("refusal_scorer/*.csv")):
        labelled = [
            (row["human_score"] == "1", is_refusal(row["assistant_response"])) for row in rows(path)
        ]
        right = sum(label and found for label, found in labelled)
        called = sum(found for _, found in labelled)
        refusals = sum(label for label, _ in labelled)
        print(
            f"{path.name}: {len(labelled)} answers, precision {right}/{called} "
            f"= {right / called:.3f}, recall {right}/{refusals} = {right / refusals:.3f}"
        )
    harmful = [
        row["assistant_response"]
        for path in sorted(folder.glob("harm/*.csv"))
        for row in rows(path)
        if float(row.get("human_score_1") or row.get("human_score") or 0) >= HARMFUL
    ]
    called = sum(map(is_refusal, harmful))
    print(
        f"harmful answers: {called} of {len(harmful)} = {called / len(harmful):.3f} called refusals"
    )


if __name__ == "__main__":
    main()
