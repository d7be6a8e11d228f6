"""Measurement of a model with the probes: answers, their scores, and the scores of a version.

Answers are greedy and one for each item. They are kept beside the scores until the measurement
ends, so that an interrupted measurement goes on with the answers that it has.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from durable_files.files import publish
from durable_files.json_lines import append_lines, read_lines
from training.artifacts.scores import ItemScore, ScoredModel, ScoreStore, TaskScore
from training.figures import clustered_mean
from training.probes.items import Kind, ProbeError, ProbeItem, digest, items_of
from training.probes.scoring import score
from training.probes.style import FIGURES, style_of
from training.runs import now
from training.verification.code import Runner

# Part of the hash of the prompts, because scores by other rules are not comparable.
RULES_VERSION = 1
MAX_TOKENS = 128
MIN_ITEMS = 2  # a standard error needs two
BATCH = 32  # answers between two writes of the draft
STYLE = "style_"
LENGTH = "style_length"

Conversation = Sequence[Mapping[str, str]]


class Answer(Protocol):
    """Answer of a model; `tokens` is its number of tokens."""

    @property
    def text(self) -> str: ...

    @property
    def tokens(self) -> int: ...


# Returns the greedy answer to each conversation, in order, with at most so many tokens. Two of them
# are `ChatModel.answer_greedily` of training.evaluation and `Endpoint.chat` of training.benchmarks.
Answerer = Callable[[Sequence[Conversation], int], Sequence[Answer]]


@dataclass(frozen=True)
class Said:
    """Text and length of an answer, as stored in the draft."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Measured:
    """Scores of a task with the items behind them."""

    score: TaskScore
    items: tuple[ItemScore, ...]


def tasks(kinds: Iterable[Kind] = tuple(Kind)) -> list[str]:
    """Return the names of the tasks that a measurement of these kinds writes."""
    return [*kinds, LENGTH, *(f"{STYLE}{name}" for name in FIGURES)]


def measure(
    model: ScoredModel,
    answerer: Answerer,
    kinds: Sequence[Kind] = tuple(Kind),
    prompts: Sequence[Conversation] = (),
    limit: int | None = None,
    sandbox: Runner | None = None,
    draft: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    complete_kinds: Sequence[Kind] = tuple(Kind),
) -> list[Measured]:
    """Measure a model on kinds of probes, and its style on all of these answers.

    The scores of the style are complete only if the answers of all `complete_kinds` count for them.

    Args:
        prompts: conversations whose answers count for the style only.
        limit: items of each kind, spread over its file; None for all. The scores are then marked
            as incomplete.
        draft: file for the answers so far; answers in it are not asked for again.
        progress: called with the number of answers and their total.
        complete_kinds: kinds of the full list of the style; the gate's list has only the kinds of
            its tasks.

    Raises:
        ProbeError: `limit` is too small, an item with code meets no sandbox, or the answerer does
            not count tokens.
    """
    _check(kinds, limit, sandbox)
    began = time.monotonic()
    chosen = {kind: _limited(items_of(kind), limit) for kind in kinds}
    conversations: dict[str, Conversation] = {
        item.id: item.messages for items in chosen.values() for item in items
    }
    conversations |= {f"prompt-{place:04}": prompt for place, prompt in enumerate(prompts, start=1)}
    said = _answers(answerer, conversations, draft, progress)
    seconds = time.monotonic() - began
    measured = []
    for kind, items in chosen.items():
        scores = [ItemScore(item.id, score(item, said[item.id].text, sandbox)) for item in items]
        measured.append(
            _measured(
                model,
                kind,
                "as_expected",
                scores,
                {item.id: item.messages for item in items},
                is_complete=limit is None,
                seconds=seconds * len(items) / len(conversations),
                breakdown=_breakdown(items, scores),
                expected=[[item.expected, item.right, item.wrong] for item in items],
            )
        )
    styles: dict[str, list[ItemScore]] = defaultdict(list)
    for name, answer in said.items():
        styles["length"].append(ItemScore(name, float(answer.tokens)))
        for figure, value in style_of(answer.text).items():
            styles[figure].append(ItemScore(name, value))
    for figure, scores in styles.items():
        measured.append(
            _measured(
                model,
                f"{STYLE}{figure}",
                {"length": "tokens", "words": "words"}.get(figure, "share"),
                scores,
                conversations,
                is_complete=limit is None and set(kinds) == set(complete_kinds),
                seconds=seconds,
            )
        )
    return measured


def style_items_sha256(kinds: Sequence[Kind]) -> str:
    """Return the hash of the items of a complete score of the style for these kinds."""
    return digest([item.id for kind in kinds for item in items_of(kind)])


def write_scores(
    store: ScoreStore, measured: Sequence[Measured], *, replace_model: bool = False
) -> dict[str, str]:
    """Offer the scores with their items to the store; return its notes by task, "" for none."""
    return {
        task.score.task: store.offer(task.score, task.items, replace_model=replace_model)
        for task in measured
    }


def _check(kinds: Sequence[Kind], limit: int | None, sandbox: Runner | None) -> None:
    if limit is not None and limit < MIN_ITEMS:
        raise ProbeError(
            f"limit: {limit} items are too few for a standard error",
            field="limit",
            limit=f"at least {MIN_ITEMS}",
        )
    if sandbox is None and Kind.KNOWLEDGE in kinds:
        raise ProbeError(
            f"kinds: {Kind.KNOWLEDGE} has items with code, which need a sandbox",
            field="sandbox",
            reason="MISSING",
        )


def _limited(items: Sequence[ProbeItem], limit: int | None) -> Sequence[ProbeItem]:
    """Return every n-th item, so that a part has items of all categories."""
    if limit is None or limit >= len(items):
        return items
    return [items[place * len(items) // limit] for place in range(limit)]


def _answers(
    answerer: Answerer,
    conversations: Mapping[str, Conversation],
    draft: Path | None,
    progress: Callable[[int, int], None],
) -> dict[str, Said]:
    """Return the answers by name, in the order of the conversations."""
    keys = {
        name: digest([RULES_VERSION, MAX_TOKENS, asked]) for name, asked in conversations.items()
    }
    known = _read_draft(draft) if draft else {}
    missing = [name for name, key in keys.items() if key not in known]
    total = len(conversations)
    for start in range(0, len(missing), BATCH):
        progress(total - len(missing) + start, total)
        batch = missing[start : start + BATCH]
        answers = answerer([conversations[name] for name in batch], MAX_TOKENS)
        for name, answer in zip(batch, answers, strict=True):
            if answer.text and not answer.tokens:
                raise ProbeError(
                    "the model server does not say how many tokens an answer has",
                    field="usage.completion_tokens",
                    reason="MISSING",
                )
            known[keys[name]] = Said(answer.text, answer.tokens)
        if draft:
            _append_draft(draft, {keys[name]: known[keys[name]] for name in batch})
    progress(total, total)
    return {name: known[key] for name, key in keys.items()}


def _read_draft(path: Path) -> dict[str, Said]:
    """Return the answers of an interrupted measurement; a torn last line is left out."""
    return {row["key"]: Said(row["text"], row["tokens"]) for row in read_lines(path)}


def _append_draft(path: Path, answers: Mapping[str, Said]) -> None:
    rows = ({"key": key, "text": s.text, "tokens": s.tokens} for key, s in answers.items())
    append_lines(path, rows)


def keep_answers(draft: Path, path: Path) -> None:
    """Write the answers of a draft to a file; its answers to other conversations remain."""
    answers = _read_draft(path) | _read_draft(draft)
    merged = draft.with_suffix(".merged")
    merged.unlink(missing_ok=True)
    _append_draft(merged, answers)
    publish(merged, path)


def _breakdown(items: Sequence[ProbeItem], scores: Sequence[ItemScore]) -> dict[str, float]:
    """Return the mean by category and, where a kind has several, by expected reaction."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item, scored in zip(items, scores, strict=True):
        groups[item.category].append(scored.value)
        groups[f"expected {item.expected}"].append(scored.value)
    return {name: sum(values) / len(values) for name, values in sorted(groups.items())}


def _measured(
    model: ScoredModel,
    task: str,
    metric: str,
    scores: Sequence[ItemScore],
    conversations: Mapping[str, Conversation],
    is_complete: bool,
    seconds: float,
    breakdown: Mapping[str, float] | None = None,
    expected: object = None,
) -> Measured:
    names = [scored.item for scored in scores]
    estimate = clustered_mean([scored.value for scored in scores], names)
    asked = [[dict(message) for message in conversations[name]] for name in names]
    found = TaskScore(
        version=model.version,
        task=str(task),
        metric=metric,
        value=estimate.value,
        standard_error=estimate.error,
        items=len(scores),
        items_sha256=digest(names),
        prompts_sha256=digest([RULES_VERSION, MAX_TOKENS, asked, expected]),
        is_complete=is_complete,
        seconds=seconds,
        finished=now(),
        breakdown=breakdown or {},
        source=model.source,
        model_sha256=model.sha256,
    )
    if not math.isfinite(found.standard_error):
        raise ProbeError(
            f"{task}: {len(scores)} items are too few", field=task, limit=f"at least {MIN_ITEMS}"
        )
    return Measured(found, tuple(scores))
