"""Answers that name their own model."""

import pytest

from services.review.arena.self_naming import FAMILY_NAMES, names_itself


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("As qwen-7b I cannot know.", "qwen-7b"),
        ("I was made as Qwen 7B-chat", "qwen-7b"),
        ("I am Qwen3, a model of Alibaba", "qwen3-0.6b"),
        ("QWEN here", "team/Qwen3-8B"),
        ("My name is Small.", "small"),
        ("Hi, I'm the model nano!", "nano"),
        ("version 20261129-ppo", "20261129-ppo"),
        ("I use command-r", "command-r-plus"),
    ],
)
def test_answer_names_its_model(text: str, model: str) -> None:
    assert names_itself(text, model, "", FAMILY_NAMES)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("a small step", "small"),
        ("I am Llama", "qwen-7b"),
        ("I am an assistant", "chat-assistant"),
        ("I am a large language model", "base-instruct-model"),
        ("the value of phi is 1.6", "qwen-7b"),
        ("", "small"),
        ("7b", "qwen-7b"),
    ],
)
def test_answer_does_not_name_its_model(text: str, model: str) -> None:
    assert not names_itself(text, model, "", FAMILY_NAMES)


def test_developer_reveals_the_model() -> None:
    assert names_itself("I was trained by Acme Labs.", "small", "Acme Labs", ())
    assert not names_itself("I was trained in labs.", "small", "Acme Labs", ())
