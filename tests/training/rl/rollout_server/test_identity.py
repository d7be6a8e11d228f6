"""Without learning, greedy answers are the same to the byte from the first model to the last.

In float32 and with one response at once: through export, serving, a resumed run, and a run that is
continued by another number of workers.
"""

from pathlib import Path

import pytest
import torch

from tests.training.rl.rollout_server.identity_run import UPDATES, train
from tests.training.rl.rollout_server.nano_policy import NANO, QUESTIONS
from tests.training.workers import run_workers
from training.artifacts.manifest import read_manifest
from training.data.chat import Message, load_chat
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.rl.rollout import CachedEngine, SampleRequest
from training.serving.predictor import serving

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

TRAIN = "tests.training.rl.rollout_server.identity_run:train"
TOKENS = 64


def greedy(model: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Return the greedy answers of the model's own sampler and of the predictor, as token ids."""
    chat = load_chat(model)
    prompts = [chat.prompt_ids([Message("user", question)]) for question in QUESTIONS]
    engine = CachedEngine(Backbone(load_decoder(model)), chat.stop_ids)
    rollout = engine.sample(SampleRequest.of(prompts, 1, TOKENS, 0.0, range(len(prompts))))
    own = [
        ids_R[mask_R.bool()].tolist()
        for ids_R, mask_R in zip(rollout.response_ids_BR, rollout.response_mask_BR, strict=True)
    ]
    with serving(model) as endpoint:
        served = [
            [*endpoint.sample([prompt], TOKENS, chat.stop_ids, 0.0, [0])[0].token_ids]
            for prompt in prompts
        ]
    return own, served


@pytest.fixture(scope="module")
def answers() -> list[list[int]]:
    """Return the answers of the model from which all runs start."""
    own, served = greedy(NANO)
    assert own == served
    assert sum(map(len, own)) > 40
    return own


@pytest.mark.parametrize("name", ["straight", "resumed", "resharded"])
def test_greedy_answers_stay_the_same(name: str, answers: list[list[int]], tmp_path: Path) -> None:
    if name == "resumed":
        train(tmp_path, 0, 1, name, killed="yes")
    if name == "resharded":
        run_workers(TRAIN, 2, tmp_path, name, "yes", timeout_seconds=600)
    assert not (tmp_path / name / name).exists(), "the run was killed"
    train(tmp_path, 0, 1, name)

    trained = tmp_path / name / name
    assert read_manifest(trained).report["exported_update"] == UPDATES
    assert greedy(trained) == (answers, answers)
    first, last = (load_decoder(model).state_dict() for model in (NANO, trained))
    assert all(torch.equal(first[weight], last[weight]) for weight in first)
