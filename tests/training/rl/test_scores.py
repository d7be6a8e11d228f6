"""Verifiers get responses as decoded text, with their tasks."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.training.toys import toy_model
from training.data.chat import load_chat
from training.rl.rollout import Rollout
from training.rl.scores import Answer, score_by_verifier


class Remembering:
    def __init__(self, *scores: float) -> None:
        self.answers: list[Answer] = []
        self._scores = scores

    def __call__(self, answers: Sequence[Answer]) -> Sequence[float]:
        self.answers += answers
        return self._scores


def rollout_of(responses: list[list[int]], ended: list[bool]) -> Rollout:
    width = max(map(len, responses))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in responses])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in responses])
    prompt = torch.ones(len(responses), 2, dtype=torch.long)
    tasks = tuple(f"task {row}" for row in range(len(responses)))
    return Rollout(
        prompt, prompt, ids, mask, torch.zeros(mask.shape), torch.tensor(ended), "update-0", tasks
    )


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
