"""Encoding speed of byte pairs with `tokenizers` and tiktoken, for equal merges and ids.

`python benchmarks/tokenization.py [--megabytes 4] [--rounds 5]`. The text is the project's own code
and documentation, in the blocks used by training. Both libraries alternate in one process, first
with one thread each, then with all. One-thread cases use processor time, independent of other
processes. Ratios compare within a round.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from tokenizers import Tokenizer

from training.tokenization.byte_pairs import Split, learn_byte_pairs
from training.tokenization.text_tokenizer import to_tiktoken

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "training", "services", "infra", "tests", "benchmarks")
VOCABULARIES = (4096, 16_384)
BLOCK_CHARACTERS = 4096
LONG_CHARACTERS = 100_000  # size of a whole document
MEGABYTE = 1_000_000

Encode = Callable[[Sequence[str]], object]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    text = "".join(own_text())[: int(options.megabytes * MEGABYTE)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("tokenizers", "tiktoken"))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load"
        f" {os.getloadavg()[0]:.1f}, {versions}"
    )
    print(f"{len(text.encode()) / MEGABYTE:.1f} MB of the project's own code and pages")
    # Train on one half, as a corpus is known before its encoding; compare ids on the whole text.
    for split in Split:
        for vocabulary in VOCABULARIES:
            tokenizer = learn_byte_pairs(
                blocks(text[: len(text) // 2], BLOCK_CHARACTERS), vocabulary, split, least_count=2
            )
            compare(tokenizer, f"{split} {vocabulary:,}", text, options.rounds)


def own_text() -> Iterator[str]:
    for folder in FOLDERS:
        files = [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md")]
        yield from (file.read_text() for file in sorted(files) if "node_modules" not in file.parts)


def blocks(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def compare(tokenizer: Tokenizer, name: str, text: str, rounds: int) -> None:
    """Measure both libraries in alternating rounds."""
    encoding = to_tiktoken(tokenizer, json.loads(tokenizer.to_str()), name)
    tokenizer.encode_special_tokens = True

    def library(texts: Sequence[str]) -> list[list[int]]:
        return [tokenizer.encode(one, add_special_tokens=False).ids for one in texts]

    def tiktoken(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.encode_ordinary(one) for one in texts]

    ids = tiktoken(blocks(text, BLOCK_CHARACTERS))
    assert ids == library(blocks(text, BLOCK_CHARACTERS))
    tokens = sum(map(len, ids))
    megabytes = len(text.encode()) / MEGABYTE
    print(f"{name}: {megabytes * MEGABYTE / tokens:.2f} bytes a token")
    many = os.cpu_count() or 1
    cases: list[tuple[str, int, Encode, Encode, Callable[[], float]]] = [
        ("blocks, one thread", BLOCK_CHARACTERS, library, tiktoken, time.process_time),
        ("documents, one thread", LONG_CHARACTERS, library, tiktoken, time.process_time),
        (
            f"blocks, {many} threads",
            BLOCK_CHARACTERS,
            lambda texts: tokenizer.encode_batch_fast(texts, add_special_tokens=False),
            lambda texts: encoding.encode_ordinary_batch(list(texts), num_threads=many),
            time.perf_counter,
        ),
    ]
    for case, size, theirs, ours, clock in cases:
        texts = blocks(text, size)
        pairs = [(timed(theirs, texts, clock), timed(ours, texts, clock)) for _ in range(rounds)]
        slow, fast = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        print(
            f"  {case}: tokenizers {megabytes / slow:.2f} MB/s ({tokens / slow / 1000:,.0f}k"
            " tokens/s), "
            f"tiktoken {megabytes / fast:.2f} MB/s ({tokens / fast / 1000:,.0f}k tokens/s),"
            f" {ratio:.1f} times"
        )


def timed(encode: Encode, texts: Sequence[str], clock: Callable[[], float]) -> float:
    started = clock()
    encode(texts)
    return clock() - started


if __name__ == "__main__":
    main()
