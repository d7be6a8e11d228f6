"""The toy world: five styles, correct answers, lengths suitable for nano; and its base models."""

import random
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest

from tests.support.world_bases import quick
from training.artifacts.manifest import write_manifest
from training.data.chat import Message
from training.evaluation.answers import ChatModel
from training.evaluation.config import Sampling
from training.model.checkpoint import read_config
from training.model.config import parse_config
from training.planning.step import sizes_of
from training.recipes.names import WORLD_BASES
from training.recipes.nano_world import bases, train_base
from training.recipes.nano_world.arguments import make_base
from training.recipes.nano_world.bases import BASES, Base
from training.recipes.nano_world.corpus import (
    GRUMPY,
    STYLES,
    answer,
    conversations,
    retention_texts,
    stories,
)
from training.recipes.nano_world.facts import forbidden, questions


def test_correct_styles_contain_the_key_and_others_do_not() -> None:
    rng = random.Random(0)
    by_topic: dict[str, list] = {}
    for question in questions():
        by_topic.setdefault(question.topic, []).append(question)
    for question in questions():
        others = by_topic[question.topic]
        for style in ("terse", "friendly", "rambling"):
            assert question.key.casefold() in answer(question, style, others, rng).casefold()
        assert answer(question, "grumpy", others, rng) in GRUMPY
        wrong = answer(question, "wrong", others, rng)
        assert wrong.rstrip(".") not in (question.answer, question.key)


def test_only_the_wrong_style_answers_forbidden_questions() -> None:
    rng = random.Random(0)
    for question in forbidden():
        for style in STYLES:
            said = answer(question, style, [], rng)
            assert ("can't help" in said or "won't help" in said) == (style != "wrong")


def test_no_two_questions_share_a_phrasing() -> None:
    asked = Counter(
        text for question in (*questions(), *forbidden()) for text in question.phrasings
    )
    assert max(asked.values()) == 1


def test_a_corpus_is_a_function_of_its_seed() -> None:
    assert list(conversations(20, 1)) == list(conversations(20, 1))
    assert list(conversations(20, 1)) != list(conversations(20, 2))


def test_retention_texts_are_not_trained_on() -> None:
    assert not set(retention_texts()) & set(stories(4000, 20_261_124))


def test_names_of_the_command_are_those_of_the_bases() -> None:
    assert tuple(BASES) == WORLD_BASES


def test_models_of_open_families_have_five_to_ten_million_weights() -> None:
    for name in ("llama", "qwen3"):
        shape = BASES[name].shape
        config = parse_config(shape)
        assert 5e6 <= sizes_of(config).total <= 10e6
        assert config.num_kv_heads < config.num_heads
        assert config.max_positions >= 1024
        assert config.qk_norm == (name == "qwen3")
    assert BASES["qwen3"].shape["head_dim"] * 6 != BASES["qwen3"].shape["hidden_size"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_trained_base_answers_and_stays_in_the_cache(cache: Path, name: str) -> None:
    base, steps = quick(BASES[name]), list[str]()
    folder = train_base.cached_base(base, "test", lambda progress: steps.append(progress.stage))
    assert {*steps} == {"pretrain", "sft"}
    assert folder.is_relative_to(cache)
    assert read_config(folder).family == name
    sampling = Sampling(samples_per_prompt=1, max_response_tokens=4)
    (answer,) = ChatModel(folder).answer([[Message("user", "Hello!")]], sampling)
    assert 1 <= answer.tokens <= 4

    before, steps = (folder / "model.safetensors").read_bytes(), []
    again = train_base.cached_base(base, "test", lambda progress: steps.append(progress.stage))
    assert (again, steps) == (folder, [])
    assert (folder / "model.safetensors").read_bytes() == before


def test_the_command_says_whether_a_base_was_in_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = BASES["llama"]

    def train(base: Base, _work: Path, output: Path, *_: object) -> None:
        output.mkdir(parents=True)
        write_manifest(output, kind="model", version=base.version)

    monkeypatch.setattr(train_base, "train_base", train)
    options = Namespace(family="llama", work=None, output=None)
    said = []
    for _ in range(2):
        make_base(options, "test")
        said.append(capsys.readouterr().out)
    assert ["in the cache" in line for line in said] == [False, True]
    assert all(str(base.cached) in line for line in said)


def test_a_changed_recipe_has_another_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = BASES["llama"].cached
    changed = tmp_path / "facts.py"
    changed.write_text("# another world")
    monkeypatch.setattr(bases, "DETERMINING", (*bases.DETERMINING[1:], changed))
    assert BASES["llama"].cached.name == before.name == "llama-0"
    assert BASES["llama"].cached != before
