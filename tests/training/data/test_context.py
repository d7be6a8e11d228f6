"""Shortened contexts: the rule of serving, in every stage, with counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.context_cases import CASES, ContextCase
from tests.training.toys import WORDS, toy_model, write_lines
from training.data.chat import Chat, Message, load_chat
from training.data.context import FittedPrompt, fit_context
from training.evaluation.answers import fitted_ids
from training.rl.served import OffPolicyConfig
from training.runtime.context import Lineage, Machine
from training.stages import dpo, kto, reward_model, sft
from training.stages.dpo import DpoConfig
from training.stages.grpo import GrpoConfig
from training.stages.kto import KtoConfig
from training.stages.policy_config import SftMix
from training.stages.policy_inputs import read_data
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig


class CountedTokens:
    """Tokenizer of messages whose content is their number of tokens."""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return [0] * sum(int(message.content) for message in messages)


@pytest.mark.parametrize("case", CASES)
def test_context_is_shortened_as_in_serving(case: ContextCase) -> None:
    messages = [Message(role, str(tokens)) for role, tokens in case.messages]
    fitted = fit_context(CountedTokens(), messages, case.budget)
    if case.kept is None:
        assert fitted is None
    else:
        assert fitted is not None
        assert len(fitted.ids) == sum(case.messages[at][1] for at in case.kept)
        assert fitted.dropped == len(messages) - len(case.kept)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_model(tmp_path_factory.mktemp("context") / "first")


@pytest.fixture(scope="module")
def chat(model: Path) -> Chat:
    return load_chat(model)


MOST_TOKENS = 120
SYSTEM = {"role": "system", "content": "be good"}
QUESTION = "tree house river"


def conversation(turns: int, question: str = QUESTION) -> list[dict[str, str]]:
    """Return a context with earlier turns; the question is the last message."""
    talk = [SYSTEM]
    for turn in range(turns):
        talk.append({"role": "user", "content": f"{WORDS[turn % 8]} {turn}"})
        talk.append({"role": "assistant", "content": f"{WORDS[turn % 7]} {turn}"})
    return [*talk, {"role": "user", "content": question}]


# Of each kind twice: short, 40 turns, and a question that alone is too long.
CONTEXTS = [
    conversation(turns, f"{question} {number}")
    for number in range(12)
    for turns, question in ((1, QUESTION), (40, QUESTION), (0, "stone " * 200))
]


def config_of(kind: Any, model: Path, rows: Path, tmp_path: Path, **changes: Any) -> Any:
    return kind(
        model_directory=model,
        data_path=rows,
        output_directory=tmp_path / "out",
        lineage=Lineage("out"),
        machine=Machine(threads=1),
        **changes,
    )


def check_prompts(prompts: Sequence[Sequence[int]], chat: Chat, most_tokens: int) -> None:
    """Check that all prompts have the system message, a user's message next, and the question."""
    assert len(prompts) == 24
    for prompt in prompts:
        text = chat.decode(list(prompt))
        assert len(prompt) <= most_tokens
        assert SYSTEM["content"] in text
        assert QUESTION in text
    longest = [prompt for prompt in prompts if len(prompt) > most_tokens - 40]
    assert len(longest) == 12  # the shortened ones use the room that there is


def test_every_stage_shortens_contexts_and_counts(model: Path, chat: Chat, tmp_path: Path) -> None:
    pairs = [
        {"messages": c, "chosen": "good", "rejected": "bad bad", "prompt_id": str(i)}
        for i, c in enumerate(CONTEXTS)
    ]
    thumbs = [
        {"messages": c, "response": "good", "thumb": "up" if i % 2 else "down", "prompt_id": str(i)}
        for i, c in enumerate(CONTEXTS)
    ]
    answers = [{"messages": c, "response": "good"} for c in CONTEXTS]
    prompts = [{"messages": c} for c in CONTEXTS]
    kinds = (("pairs", pairs), ("thumbs", thumbs), ("answers", answers), ("prompts", prompts))
    files = {name: write_lines(tmp_path / f"{name}.jsonl", rows) for name, rows in kinds}
    limit = {"max_tokens": MOST_TOKENS, "held_out_fraction": 0.5}

    taught = sft.read_examples(
        config_of(SftConfig, model, files["answers"], tmp_path, **limit), chat
    )
    rated = reward_model.read_data(
        config_of(RewardModelConfig, model, files["pairs"], tmp_path, **limit), chat
    )
    preferred = dpo.read_data(config_of(DpoConfig, model, files["pairs"], tmp_path, **limit), chat)
    liked = kto.read_data(config_of(KtoConfig, model, files["thumbs"], tmp_path, **limit), chat)
    for data in (taught, rated, preferred, liked):
        assert (data.dropped_too_long, data.contexts_shortened) == (12, 12)
    check_prompts([e.prompt for e in (*taught.train, *taught.held_out)], chat, MOST_TOKENS)
    check_prompts([p.chosen for p in (*rated.train, *rated.held_out)], chat, MOST_TOKENS)
    both = (*preferred.train, *preferred.held_out)
    assert all(pair.chosen.prompt == pair.rejected.prompt for pair in both)
    check_prompts([pair.chosen.prompt for pair in both], chat, MOST_TOKENS)
    check_prompts([t.example.prompt for t in (*liked.train, *liked.held_out)], chat, MOST_TOKENS)

    policy = config_of(
        GrpoConfig,
        model,
        files["prompts"],
        tmp_path,
        reward_model_directory=None,
        max_prompt_tokens=MOST_TOKENS,
        max_response_tokens=8,
        sft_mix=SftMix(files["answers"]),
    )
    asked = read_data(policy, chat)
    assert (asked.dropped_too_long, asked.contexts_shortened) == (12, 12)
    check_prompts(asked.ids, chat, MOST_TOKENS)
    check_prompts([example.prompt for example in asked.mixed], chat, MOST_TOKENS + 8)


def test_shortened_context_of_a_served_answer_drops_its_sample(
    model: Path, chat: Chat, tmp_path: Path
) -> None:
    """The log-probs were those of the answer after the whole context."""
    rows = [
        {
            "messages": context,
            "response": "good",
            "thumb": "up" if number % 2 else "down",
            "prompt_id": str(number),
            "served": {
                "version": "first",
                "token_ids": chat.response_ids("good"),
                "log_probs": [-1.0] * len(chat.response_ids("good")),
                "prompt_tokens": len(chat.prompt_ids([Message(**m) for m in context])),
            },
        }
        for number, context in enumerate(
            conversation(turns, f"{QUESTION} {i}") for i in range(12) for turns in (1, 40)
        )
    ]
    path = write_lines(tmp_path / "thumbs.jsonl", rows)
    config = config_of(
        KtoConfig,
        model,
        path,
        tmp_path,
        max_tokens=MOST_TOKENS,
        held_out_fraction=0.5,
        off_policy=OffPolicyConfig(importance_cap=2.0),
    )
    data = kto.read_data(config, chat)
    thumbs = (*data.train, *data.held_out)
    assert sum(thumb.served is None for thumb in thumbs) == data.contexts_shortened == 12
    assert not any(thumb.unfit for thumb in thumbs)


def test_evaluation_reads_contexts_by_the_same_rule(chat: Chat) -> None:
    messages = [Message(**message) for message in conversation(40)]
    ids = fitted_ids(chat, messages, MOST_TOKENS)
    fitted = fit_context(chat, messages, MOST_TOKENS)
    assert fitted is not None
    assert ids == list(fitted.ids)
    # A question that is itself too long loses its beginning: an evaluation needs all prompts.
    alone = [Message("user", "stone " * 200)]
    assert fitted_ids(chat, alone, 50) == chat.prompt_ids(alone)[-50:]


def test_eight_thousand_tokens_in_forty_turns_stay_whole(chat: Chat) -> None:
    talk = [Message(**message) for message in conversation(40)]
    context = [Message(m.role, f"{m.content} {'river stone ' * 50}") for m in talk]
    whole = chat.prompt_ids(context)
    assert len(whole) > 8000
    assert fit_context(chat, context, len(whole)) == FittedPrompt(tuple(whole))
    shortened = fit_context(chat, context, len(whole) - 1)
    assert shortened is not None
    assert shortened.dropped == 2
