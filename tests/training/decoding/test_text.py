"""Text while it grows: whole characters, no stop string, nothing lost; and where rows end by it,
against transformers.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.errors import refused
from tests.training.toys import toy_model
from training.data.chat import Chat, Message, load_chat
from training.data.tensors import pad
from training.decoding.rows import DecodingError, Rows, stop_at
from training.decoding.rules import Rules
from training.decoding.sampling import sample
from training.decoding.text import GrowingText, check_stops, stop_at_text
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder


def of_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def told(text: str, stops: Sequence[str] = ()) -> tuple[list[str], GrowingText]:
    growing = GrowingText(of_bytes, stops)
    shown = []
    for byte in text.encode():
        shown.append(growing.feed(byte))
        if growing.stopped:
            break
    shown.append(growing.finish())
    return shown, growing


def test_characters_of_several_bytes_are_shown_whole() -> None:
    shown, growing = told("naïve 🙂 日本")
    assert "".join(shown) == growing.text == "naïve 🙂 日本"
    assert not any("\ufffd" in part for part in shown)


def test_half_a_character_at_the_end_is_shown_as_what_it_is() -> None:
    growing = GrowingText(of_bytes)
    assert [growing.feed(byte) for byte in "é".encode()[:1]] == [""]
    assert growing.finish() == growing.text == "\ufffd"


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
def test_a_stop_string_is_never_shown_and_its_beginning_only_when_it_was_none(
    text: str, stops: list[str], expected: str, stopped: bool
) -> None:
    shown, growing = told(text, stops)
    assert "".join(shown) == growing.text == expected
    assert growing.stopped is stopped


def test_text_is_shown_as_soon_as_it_cannot_be_part_of_a_stop() -> None:
    shown, _ = told("hello\nUx", ["\nUser:"])
    assert shown == ["h", "e", "l", "l", "o", "", "", "\nUx", ""]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model whose greedy text is not one token for ever, nor half characters: those have no
    logit above 0.
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


def test_rows_end_where_transformers_ends_them(directory: Path, chat: Chat) -> None:
    prompts = [
        chat.prompt_ids([Message("user", words)]) for words in ("good", "bad tree", "river stone")
    ]
    new, ours = 24, Backbone(load_decoder(directory))
    free = sample(Rows(ours, prompts, new), Rules(temperature=0), stop_at([2]), new, [0, 0, 0])
    stops = [
        chat.decode(free[0].ids)[4:7],
        chat.decode(free[1].ids)[9:11],
    ]  # across tokens, and really said
    texts = [GrowingText(chat.decode, stops) for _ in prompts]
    found = sample(
        Rows(ours, prompts, new),
        Rules(temperature=0),
        stop_at_text(texts, stop_at([2])),
        new,
        [0, 0, 0],
    )
    theirs = LlamaForCausalLM.from_pretrained(directory)
    theirs.generation_config = GenerationConfig(
        pad_token_id=0, eos_token_id=2
    )  # or they would not fill up
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
    for said, row, text in zip(found, expected, texts, strict=True):
        assert list(said.ids) == row[: len(said.ids)]
        assert not any(row[len(said.ids) :])  # filling
        assert said.ended is text.stopped
    assert texts[0].stopped
    assert texts[0].text == chat.decode(free[0].ids).split(stops[0])[0]


def test_stop_texts_out_of_range_are_refused() -> None:
    with refused(DecodingError, field="stop", reason="TOO_LARGE", limit="at most 4"):
        check_stops(["a"] * 5)
    with refused(DecodingError, field="stop", reason="OUT_OF_RANGE", limit="1 to 64"):
        check_stops(["a", ""])
