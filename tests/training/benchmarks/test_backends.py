"""Scores of the command equal those of lm-eval's own transformers backend, item by item."""

import warnings
from pathlib import Path

import pytest

from training.artifacts.scores import ScoredModel, ScoreStore
from training.benchmarks.language_model import EndpointModel
from training.benchmarks.models import ModelChoice, opened
from training.benchmarks.runner import Run, evaluate
from training.benchmarks.tasks import BENCHMARKS, load

ROOT = Path(__file__).resolve().parents[3]
NANO = ROOT / "models" / "nano"
TASKS, ITEMS = ("hellaswag", "arc_easy", "lambada"), 200


@pytest.mark.long
@pytest.mark.usefixtures("benchmark_data")
@pytest.mark.parametrize("name", TASKS)
def test_scores_of_nano_equal_those_of_the_transformers_backend(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")  # of the libraries of the other backend
    from lm_eval.models.huggingface import HFLM

    parts = load(BENCHMARKS[name], lambda expected, response: 0.0)
    with opened(ModelChoice(str(NANO), tmp_path)) as model:
        ours = evaluate(
            BENCHMARKS[name],
            parts,
            EndpointModel(model),
            Run(ScoredModel("ours"), "", ScoreStore(tmp_path), ITEMS),
        )
        # Model servers reserve a token of the window, and HFLM adds one to its limit.
        limit = model.window_tokens - 2
    theirs = HFLM(
        pretrained=str(NANO), device="cpu", dtype="float32", batch_size=1, max_length=limit
    )
    theirs.shortened = 0
    run = Run(ScoredModel("theirs"), "", ScoreStore(tmp_path), ITEMS)
    reference = evaluate(BENCHMARKS[name], parts, theirs, run)

    assert len(ours.items) == ITEMS
    assert list(ours.items) == list(reference.items)
