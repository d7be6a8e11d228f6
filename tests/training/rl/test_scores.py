"""Verifiers get responses as decoded text, with their tasks."""

from pathlib import Path

import pytest
import torch

from tests.training.rl.rollouts import Remembering, rollout_of
from tests.training.toys import toy_model
from training.data.chat import load_chat
from training.rl.scores import Answer, score_by_verifier


def test_verifier_gets_task_text_and_end_of_the_response(tmp_path: Path) -> None:
    chat = load_chat(toy_model(tmp_path / "model"))
    texts = ["tree", "good house"]
    full = [chat.response_ids(texts[0]), chat.response_ids(texts[1])[:-1]]
    verifier = Remembering(0.0, 1.0)
    scores = score_by_verifier(verifier, chat.decode)(rollout_of(full, [True, False]))
    assert scores.tolist() == [0.0, 1.0]
    assert verifier.answers == [Answer("task 0", texts[0], True), Answer("task 1", texts[1], False)]


def test_tasks_follow_their_rows() -> None:
    assert rollout_of([[3], [4], [5]], [True] * 3).rows(torch.tensor([2, 0])).tasks == (
        "task 2",
        "task 0",
    )


def test_wrong_number_of_scores_is_an_error(tmp_path: Path) -> None:
    chat = load_chat(toy_model(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"\bverifier\b.*\b1\b.*\b2\b"):
        score_by_verifier(Remembering(1.0), chat.decode)(rollout_of([[3], [4]], [True, True]))
