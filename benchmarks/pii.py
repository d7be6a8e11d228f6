"""Precision, recall and cost of the detection of personal data: `python -m benchmarks.pii FILE …`.

Precision and recall are those on the labelled texts in tests/training/corpus/pii. The cost is
measured on the given files, for example documentation, and on texts that are expensive for
patterns; the unit is the time of a search for all words of the same text in the same run.
"""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from training.corpus.pii.redaction import find

LABELLED = (
    Path(__file__).resolve().parents[1] / "tests" / "training" / "corpus" / "pii" / "labelled"
)
WORD = re.compile(r"\w+")
CHARACTERS = 80_000
UNITS = (
    "1", "1 ", "@", "a@", "a@a.", "a.", "1.2.3.4 ", ":", "a:", "2001:", "a (at) b (dot) ", "+1(2",
    "DE12 ", "4111 1111 1111 1111 ", "0000 ", "x 12345678 ", "020 7946 0018 ", "call 12345 ",
)  # fmt: skip


def accuracy(part: str) -> None:
    """Print precision and recall by kind; a span counts if its borders and its kind are right."""
    found, missed, extra = Counter[str](), Counter[str](), Counter[str]()
    for row in map(json.loads, (LABELLED / f"{part}.jsonl").read_text().splitlines()):
        wanted = {tuple(span) for span in row["spans"]}
        spans = {
            (span.start, span.end, span.kind.value)
            for span in find(row["text"], row["language"], url=row["url"])
        }
        found.update(kind for _, _, kind in wanted & spans)
        missed.update(kind for _, _, kind in wanted - spans)
        extra.update(kind for _, _, kind in spans - wanted)
    for kind in sorted(found | missed | extra):
        labelled, called = found[kind] + missed[kind], found[kind] + extra[kind]
        print(
            f"{part:12} {kind:13} {labelled:4} labelled, "
            f"precision {found[kind]}/{called}, recall {found[kind]}/{labelled}"
        )


def seconds(work: Callable[[str], object], texts: Sequence[str]) -> float:
    """Return the processor time of a function on all texts."""
    start = time.process_time()
    for text in texts:
        work(text)
    return time.process_time() - start


def cost(name: str, texts: Sequence[str]) -> None:
    """Print the cost in units of a search for words, and the bytes per second of this machine."""
    words = seconds(lambda text: sum(1 for _ in WORD.finditer(text)), texts)
    detection = seconds(lambda text: find(text, "en"), texts)
    size = sum(len(text.encode()) for text in texts)
    print(
        f"{name:24} {detection / max(words, 1e-9):7.1f} times the search for words, "
        f"{size / detection / 1e6:6.2f} MB/s"
    )


def main() -> None:
    for part in ("development", "held_out"):
        accuracy(part)
    if files := [Path(name) for name in sys.argv[1:]]:
        cost(f"{len(files)} files", [path.read_text(errors="replace") for path in files])
    for unit in UNITS:
        text = (unit * CHARACTERS)[:CHARACTERS]
        cost(repr(unit), [text])
        cost(f"{unit!r} x4", [text * 4])


if __name__ == "__main__":
    main()
