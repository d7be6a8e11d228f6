"""Tokenizers in the format of Llama 3 and Qwen3."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.support.errors import refused
from training.data.chat import Message, load_chat
from training.errors import ConfigError
from training.tokenization.families import (
    LLAMA,
    QWEN,
    TokenizerFamily,
    train_family_tokenizer,
)

FAMILIES = {"llama": LLAMA, "qwen": QWEN}
TEXTS = [f"What is {n} plus {n}? The answer is {n + n}. Résumé, naïve — 你好." for n in range(99)]
CHAT = [("system", "Be brief."), ("user", " Hello! "), ("assistant", "Hi."), ("user", "Bye.")]
WRITTEN = {
    # Llama 3, model card: prompt formats
    "llama": "<|begin_of_text|>"
    "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    # Qwen3, ChatML
    "qwen": "<|im_start|>system\nBe brief.<|im_end|>\n"
    "<|im_start|>user\n Hello! <|im_end|>\n"
    "<|im_start|>assistant\nHi.<|im_end|>\n"
    "<|im_start|>user\nBye.<|im_end|>\n"
    "<|im_start|>assistant\n",
}


@pytest.fixture(scope="module", params=FAMILIES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, TokenizerFamily, Path]:
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp(request.param)
    train_family_tokenizer(TEXTS, 400, family, folder)
    return request.param, family, folder


def test_a_chat_has_the_form_of_the_family(made: tuple[str, TokenizerFamily, Path]) -> None:
    name, family, folder = made
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    chat = load_chat(folder)
    ids = chat.prompt_ids([Message(*message) for message in CHAT])
    assert tokenizer.decode(ids, skip_special_tokens=False) == WRITTEN[name]
    assert chat.end_id == tokenizer.token_to_id(family.stops[0])
    assert set(chat.stop_ids) == {tokenizer.token_to_id(token) for token in family.stops}


def test_special_tokens_follow_the_learned_ones(
    made: tuple[str, TokenizerFamily, Path],
) -> None:
    _, family, folder = made
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    ids = [tokenizer.token_to_id(token) for token in family.special]
    assert ids == list(range(size - len(ids), size))


def test_transformers_reads_the_same_tokenizer(
    made: tuple[str, TokenizerFamily, Path],
) -> None:
    name, family, folder = made
    theirs = AutoTokenizer.from_pretrained(str(folder))
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (*TEXTS[:3], "Cafe\u0301 12345\n\n  x = 1", ""):
        assert theirs(text, add_special_tokens=False).input_ids == (
            ours.encode(text, add_special_tokens=False).ids
        )
    rows = [{"role": role, "content": text} for role, text in CHAT]
    chat = theirs.apply_chat_template(rows, add_generation_prompt=True, tokenize=False)
    assert chat == WRITTEN[name]
    assert theirs.eos_token == family.stops[0]


def test_numbers_are_split_as_in_the_family(tmp_path: Path) -> None:
    many = [f"{n}" for n in range(1000)] * 3
    pieces = {}
    for name, family in FAMILIES.items():
        tokenizer = train_family_tokenizer(many, 1300, family, tmp_path / name)
        pieces[name] = tokenizer.encode("12345", add_special_tokens=False).tokens
    assert (pieces["llama"], pieces["qwen"]) == (["123", "45"], list("12345"))


def test_only_llama_begins_a_plain_text_with_a_token(tmp_path: Path) -> None:
    for name, begins in (("llama", ["<|begin_of_text|>"]), ("qwen", [])):
        tokenizer = train_family_tokenizer(TEXTS, 400, FAMILIES[name], tmp_path / name)
        assert tokenizer.encode("What").tokens[: len(begins)] == begins
        assert len(tokenizer.encode("What").ids) == len(begins) + len(
            tokenizer.encode("What", add_special_tokens=False).ids
        )


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    with refused(ConfigError, field="vocabulary", reason="OUT_OF_RANGE", limit="at least 256"):
        train_family_tokenizer(TEXTS, 258, QWEN, tmp_path)
