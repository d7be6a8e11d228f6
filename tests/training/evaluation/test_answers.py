"""Answers of a model under the sampling rules of serving."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.toys import toy_model
from training.data.chat import Message
from training.evaluation.answers import ChatModel
from training.evaluation.config import Sampling

PROMPTS = [[Message("user", words)] for words in ("good tree", "bad", "river stone cloud")]
SAMPLING = Sampling(samples_per_prompt=2, max_response_tokens=10, temperature=0.7, top_p=0.9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    directory: Path = toy_model(tmp_path_factory.mktemp("toy") / "model")
    return ChatModel(directory)


def test_answers_are_independent_of_batching(model: ChatModel) -> None:
    together = model.answer(PROMPTS, SAMPLING)
    assert [said.prompt for said in together] == [0, 0, 1, 1, 2, 2]
    assert model.answer(PROMPTS, replace(SAMPLING, batch_prompts=1)) == together
    assert together[0].text != together[1].text
    assert model.answer(PROMPTS, replace(SAMPLING, seed=1)) != together


def test_nucleus_of_the_preset_is_applied(model: ChatModel) -> None:
    greedy = model.answer(PROMPTS, replace(SAMPLING, temperature=0.0))
    assert model.answer(PROMPTS, replace(SAMPLING, top_p=1e-6)) == greedy
    assert greedy != model.answer(PROMPTS, SAMPLING)
