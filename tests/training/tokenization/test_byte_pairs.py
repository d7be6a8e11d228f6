"""Byte pairs: what is learned, that it is the same twice, and that nothing is held that need not
be.
"""

import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from tests.support.errors import refused
from tests.training.tokenization.made import HARD, TEXT, learned
from training.data.tokenize import train_tokenizer
from training.errors import ConfigError
from training.recipes.nano_world.corpus import conversations, stories
from training.recipes.nano_world.train_base import CONVERSATIONS, SEED, STORIES, VOCABULARY
from training.tokenization.byte_pairs import FEWEST_TOKENS, bytes_by_letter, learn_byte_pairs
from training.tokenization.control import CONTROL, write_chat_files
from training.tokenization.splitting import Split

ROOT = Path(__file__).parents[3]
ONCE = """
import sys
from pathlib import Path
from training.tokenization.byte_pairs import learn_byte_pairs
from training.tokenization.splitting import Split
learn_byte_pairs([Path("README.md").read_text()] * 3, 1000, Split.GPT4, 2).save(sys.argv[1])
"""


def test_nanos_tokenizer_comes_out_as_the_one_that_its_weights_belong_to(tmp_path: Path) -> None:
    chats, told = (
        list(conversations(CONVERSATIONS, SEED))[:4000],
        list(stories(STORIES, SEED))[:2000],
    )
    said = [m["content"] for row in chats for m in row["messages"]] + [
        row["response"] for row in chats
    ]
    train_tokenizer([*said, *told], VOCABULARY, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "models" / "nano" / name).read_bytes(), (
            name
        )


def test_two_processes_learn_the_same_bytes_on_one_thread_and_on_four(tmp_path: Path) -> None:
    for threads in ("1", "4"):
        command = [sys.executable, "-c", ONCE, str(tmp_path / threads)]
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, "RAYON_NUM_THREADS": threads}, check=True
        )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "4").read_bytes()


def test_control_tokens_have_the_first_ids_and_every_byte_one_of_the_next() -> None:
    tokenizer = learned(300)
    assert [tokenizer.token_to_id(token) for token in CONTROL] == list(range(len(CONTROL)))
    assert {tokenizer.token_to_id(letter) for letter in bytes_by_letter()} == set(
        range(len(CONTROL), FEWEST_TOKENS)
    )
    assert tokenizer.get_vocab_size() == 300


def test_the_byte_alphabet_is_the_librarys() -> None:
    assert set(bytes_by_letter()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(bytes_by_letter().values()) == list(range(256))
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("~\x7f\x80\xa0\xad\xff", "é日😀", " \n"):
        written = "".join(piece for piece, _ in splitter.pre_tokenize_str(text))
        assert bytes(bytes_by_letter()[letter] for letter in written) == text.encode()


def test_too_small_a_vocabulary_is_refused_with_its_limit() -> None:
    with refused(
        ConfigError, field="vocabulary", reason="OUT_OF_RANGE", limit="at least 262"
    ) as caught:
        learned(261)
    assert {"261", "262", "256", "6"} <= set(re.findall(r"\d+", caught.value.text))
    assert learned(262).get_vocab_size() == 262


def test_gpt4s_splitting_keeps_digits_in_groups_of_three_and_contractions_apart() -> None:
    texts = ["1234567 we'll WE'LL don't\n\n"] * 100
    ours = [
        token.replace("Ġ", " ").replace("Ċ", "\n")
        for token in learned(2000, texts=texts).get_vocab()
    ]
    assert max(len(token) for token in ours if token.isdigit()) == 3
    assert {"'ll", "'LL", "'t", " WE", "\n\n"} <= set(ours)
    older = learned(2000, Split.GPT2, texts).get_vocab()
    assert "1234567" in older
    assert "'ll" in older
    assert "'LL" not in older


def test_a_pair_that_stands_once_is_not_merged_unless_asked() -> None:
    once = ["the quick brown fox jumps"]
    assert learn_byte_pairs(once, 500, Split.GPT4, least_count=2).get_vocab_size() == FEWEST_TOKENS
    assert learn_byte_pairs(once, 500, Split.GPT4, least_count=0).get_vocab_size() > FEWEST_TOKENS


def test_control_tokens_in_the_texts_are_learned_from_as_text() -> None:
    tokenizer = learned(600, texts=["<|end|> said <|end|>"] * 100)
    assert list(tokenizer.get_vocab()).count("<|end|>") == 1
    assert {"<|", "end", "|>"} <= set(tokenizer.get_vocab())


def test_texts_are_taken_one_after_another_and_not_held() -> None:
    texts, characters = 1500, 2000

    def many() -> Iterator[str]:
        for number in range(texts):
            yield f"text {number % 10} " * (characters // 7)

    tracemalloc.start()
    try:
        learn_byte_pairs(many(), 300, Split.GPT4, least_count=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < texts * characters / 3  # the library holds 256 of them


def test_transformers_reads_the_same_ids_from_the_directory(tmp_path: Path) -> None:
    tokenizer = learned(600)
    write_chat_files(tokenizer, tmp_path)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    for text in (*HARD, TEXT):
        assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode(text).ids
    chat = [{"role": "user", "content": "hello"}]
    written = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert re.fullmatch(r"<\|begin\|><\|user\|>hello<\|end\|><\|assistant\|>", written)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(written).ids[:2] == [1, 4]
