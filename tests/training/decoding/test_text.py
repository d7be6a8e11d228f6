"""Incremental text: complete characters, no stop strings, no losses; stops as in transformers."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.errors import refused
from tests.training.toys import toy_model
from training.data.chat import Chat, Message, load_chat
from training.data.tensors import pad
from training.decoding.config import DecodingError, Rules, check_stops
from training.decoding.rows import Rows, stop_at
from training.decoding.sampling import sample
from training.decoding.text import IncrementalDetokenizer, stop_at_text
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder


def decode_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def feed_all(text: str, stops: Sequence[str] = ()) -> tuple[list[str], IncrementalDetokenizer]:
    detokenizer = IncrementalDetokenizer(decode_bytes, stops)
    shown = []
    for byte in text.encode():
        shown.append(detokenizer.feed(byte))
        if detokenizer.stopped:
            break
    shown.append(detokenizer.finish())
    return shown, detokenizer


def test_multibyte_characters_are_released_complete() -> None:
    shown, detokenizer = feed_all("naïve 🙂 日本")
    assert "".join(shown) == detokenizer.text == "naïve 🙂 日本"
    assert not any("\ufffd" in part for part in shown)


def test_incomplete_character_at_the_end_is_a_replacement_character() -> None:
    detokenizer = IncrementalDetokenizer(decode_bytes)
    assert [detokenizer.feed(byte) for byte in "é".encode()[:1]] == [""]
    assert detokenizer.finish() == detokenizer.text == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "expected", "stopped"),
    [
        ("one\nUser: two", ["\nUser:"], "one", True),
        ("one\nUse it", ["\nUser:"], "one\nUse it", False),
        ("aaab", ["aab"], "a", True),
        ("ababac!", ["abac"], "ab", True),
        ("one two", ["two", "one tw"], "", True),
        ("ends with \nUs", ["\nUser:"], "ends with \nUs", False),
        ("日本語", ["本"], "日", True),
    ],
)
def test_stop_strings_are_never_released(
    text: str, stops: list[str], expected: str, stopped: bool
) -> None:
    shown, detokenizer = feed_all(text, stops)
    assert "".join(shown) == detokenizer.text == expected
    assert detokenizer.stopped is stopped


def test_text_is_released_once_it_cannot_start_a_stop_string() -> None:
    shown, _ = feed_all("hello\nUx", ["\nUser:"])
    assert shown == ["h", "e", "l", "l", "o", "", "", "\nUx", ""]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a toy model with varied greedy text.

    Tokens with incomplete characters have no logit above 0.
    """
    folder = toy_model(tmp_path_factory.mktemp("toy"))
    decoder, chat = load_decoder(folder), load_chat(folder)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" not in name:
                parameter.mul_(12.0)
        embedding = decoder.model.embed_tokens.weight
        for token in range(len(embedding)):
            if (
                not chat.decode([token]).isprintable()
                or not chat.decode([token]).isascii()
                or not chat.decode([token])
            ):
                embedding[token] = 0.0
    save_decoder(decoder, folder)
    return folder


@pytest.fixture(scope="module")
def chat(directory: Path) -> Chat:
    return load_chat(directory)


def test_rows_end_at_stop_strings_like_in_transformers(directory: Path, chat: Chat) -> None:
    prompts = [
        chat.prompt_ids([Message("user", words)]) for words in ("good", "bad tree", "river stone")
    ]
    new, ours = 24, Backbone(load_decoder(directory))
    free = sample(Rows(ours, prompts, new), Rules(temperature=0), stop_at([2]), new, [0, 0, 0])
    # Stop strings that span tokens and occur in the texts.
    stops = [chat.decode(free[0].ids)[4:7], chat.decode(free[1].ids)[9:11]]
    texts = [IncrementalDetokenizer(chat.decode, stops) for _ in prompts]
    found = sample(
        Rows(ours, prompts, new),
        Rules(temperature=0),
        stop_at_text(texts, stop_at([2])),
        new,
        [0, 0, 0],
    )
    theirs = LlamaForCausalLM.from_pretrained(directory)
    # Without this configuration the sequences would not be padded.
    theirs.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=2)
    ids, mask = pad(prompts, side="left")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    expected = theirs.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=new,
        do_sample=False,
        stop_strings=stops,
        tokenizer=tokenizer,
    )[:, ids.shape[1] :].tolist()
    for continuation, row, text in zip(found, expected, texts, strict=True):
        assert list(continuation.ids) == row[: len(continuation.ids)]
        assert not any(row[len(continuation.ids) :])  # padding
        assert continuation.ended is text.stopped
    assert texts[0].stopped
    assert texts[0].text == chat.decode(free[0].ids).split(stops[0])[0]


def test_stop_strings_out_of_range_are_refused() -> None:
    with refused(DecodingError, field="stop", reason="TOO_LARGE", limit="at most 4"):
        check_stops(["a"] * 5)
    with refused(DecodingError, field="stop", reason="OUT_OF_RANGE", limit="1 to 64"):
        check_stops(["a", ""])
