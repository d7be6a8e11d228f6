"""Evaluation of a model on a benchmark: items, their results on disk, and the score.

Finished items are appended to a journal beside the scores, so that an interrupted evaluation
continues with the others. The journal belongs to one model, one item list and one set of prompts.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from durable_files.json_lines import append_lines, read_lines
from training.artifacts.scores import ENDPOINT, ItemScore, ScoredModel, ScoreStore, TaskScore
from training.benchmarks.code_tasks import CodeItem, Completer, Decoding, pass_rates
from training.benchmarks.code_tasks import run as run_code
from training.benchmarks.data import item_ids
from training.benchmarks.tasks import Benchmark, Part
from training.errors import ConfigError, DetailedError
from training.figures import clustered_mean
from training.runs import now
from training.verification.code import Runner

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from training.benchmarks.language_model import EndpointModel

CHUNK_ITEMS = 32  # written together; at most this many are computed again after an interruption
MIN_ITEMS = 2  # a single item has no standard error

Progress = Callable[[int, int, float], None]
"""Called with finished items, all items, and the seconds so far."""


def no_progress(done: int, of: int, seconds: float) -> None:
    """Report no progress; the default for callers without a display."""


class JournalError(DetailedError, ValueError):
    """The journal of an interrupted evaluation belongs to another model, item list or prompts."""

    reason = "CHANGED"


@dataclass(frozen=True)
class Question:
    """An item with its rendered requests; `place` is the row within its part."""

    id: str
    part: Part
    place: int
    requests: Sequence[Instance]


@dataclass(frozen=True)
class Run:
    """Settings of an evaluation, equal for all benchmarks.

    Args:
        model: owner of the scores.
        digest: hash of the model, different for models of the same name.
        store: receives the scores; `ScoreStore.offer` decides on the replacement of a stored one.
        limit: number of items of each benchmark; None for all.
        restart: discard the finished items of an earlier evaluation, and replace its score, also
            that of another model of this name.
    """

    model: ScoredModel
    digest: str
    store: ScoreStore
    limit: int | None = None
    restart: bool = False


@dataclass(frozen=True)
class Evaluated:
    """Result of an evaluation.

    Attributes:
        reused: number of items that were finished before.
        shortened: number of requests whose prompt lost its beginning to fit into the window.
        note: remark of the store, for example on a better founded score; "" for none.
    """

    score: TaskScore
    items: Sequence[ItemScore]
    reused: int
    shortened: int
    note: str


@dataclass(frozen=True)
class Identity:
    """Origin of results; results of different origins are never mixed."""

    model: str
    items_sha256: str
    prompts_sha256: str


class Journal:
    """File with a line for the identity, then a line for each chunk of finished items."""

    def __init__(self, path: Path, identity: Identity, restart: bool = False) -> None:
        """Read the finished items.

        Raises:
            JournalError: the file has another identity; `restart` removes it instead.
        """
        self._path = path
        self.values: dict[str, float] = {}
        self.seconds, self.shortened = 0.0, 0
        if restart:
            path.unlink(missing_ok=True)
        rows = read_lines(path)
        found = rows[0] if rows else asdict(identity)
        for name, value in asdict(identity).items():
            if found.get(name) != value:
                raise JournalError(
                    f"{path}: the earlier evaluation has another {name}; "
                    "--restart discards its items",
                    field=name,
                )
        if not rows:
            append_lines(path, [asdict(identity)])
        for chunk in rows[1:]:
            self.values |= chunk["values"]
            self.seconds += chunk["seconds"]
            self.shortened += chunk["shortened"]

    def add(self, values: Mapping[str, float], seconds: float, shortened: int) -> None:
        """Append finished items with their time."""
        row = {"values": values, "seconds": round(seconds, 3), "shortened": shortened}
        append_lines(self._path, [row])
        self.values |= values
        self.seconds += seconds
        self.shortened += shortened


def select(ids: Sequence[str], limit: int | None) -> list[str]:
    """Return all ids, or a fixed subset of `limit` ids by their hashes, in the given order.

    Raises:
        ConfigError: the limit is too small for a standard error.
    """
    if limit is None or limit >= len(ids):
        return list(ids)
    if limit < MIN_ITEMS:
        raise ConfigError(
            f"limit: {limit} items are too few for a standard error, at least {MIN_ITEMS}",
            field="limit",
            reason="OUT_OF_RANGE",
            limit=f"at least {MIN_ITEMS}",
        )
    ranked = sorted(ids, key=lambda item: hashlib.sha256(f"limit {item}".encode()).digest())
    kept = set(ranked[:limit])
    return [item for item in ids if item in kept]


def questions(parts: Sequence[Part], limit: int | None) -> list[Question]:
    """Return the chosen items of all parts with their rendered prompts, in order."""
    named = [
        (item, part, place)
        for part in parts
        for place, item in enumerate(
            item_ids(list(part.items), f"{part.name}/" if part.name else "")
        )
    ]
    kept = set(select([item for item, _, _ in named], limit))
    found = []
    for item, part, place in named:
        if item not in kept:
            continue
        task, document = part.task, part.task.task_docs[place]
        built = task.construct_requests(
            doc=document,
            ctx=task.fewshot_context(document, num_fewshot=task.config.num_fewshot or 0),
            metadata=(task.config.task, place, 1),
            apply_chat_template=False,
            chat_template=None,
        )
        requests = built if isinstance(built, list) else [built]
        found.append(Question(item, part, place, requests))
    return found


def evaluate(
    benchmark: Benchmark,
    parts: Sequence[Part],
    model: EndpointModel,
    run: Run,
    report: Progress = no_progress,
) -> Evaluated:
    """Evaluate a model on a benchmark and store the score.

    Raises:
        JournalError: finished items belong to another model, item list or prompts.
        EndpointError: the endpoint stopped answering; finished items are kept.
        RefusedError: the endpoint refused a request.
    """
    asked = {question.id: question for question in questions(parts, run.limit)}
    prompts = (
        json.dumps([request.request_type, request.args])
        for question in asked.values()
        for request in question.requests
    )

    def compute(ids: Sequence[str]) -> tuple[dict[str, float], int]:
        shortened = model.shortened
        values = _values(benchmark, [asked[item] for item in ids], model)
        return values, model.shortened - shortened

    return _evaluate(
        benchmark,
        {item: question.part.name for item, question in asked.items()},
        Identity(run.digest, _sha256(asked), _sha256(prompts)),
        len(asked) == sum(len(part.items) for part in parts),
        run,
        compute,
        report,
    )


class WindowedCompleter(Completer, Protocol):
    """Completer that shortens prompts to its window; `EndpointModel` is one."""

    shortened: int


def evaluate_code(
    benchmark: Benchmark,
    items: Sequence[CodeItem],
    model: WindowedCompleter,
    sandbox: Runner,
    run: Run,
    report: Progress = no_progress,
    decoding: Decoding | None = None,
) -> Evaluated:
    """Evaluate a model on a benchmark whose answers are programs.

    The value of an item is the share of passing samples, and the score their mean, pass@1.
    The breakdown of several samples is pass@k.

    Args:
        sandbox: runs the programs.
        decoding: greedy by default. Scores of samples are stored as a task of their own.

    Raises:
        SandboxUnavailableError: the sandbox did not start; no program counts as wrong for that.
        JournalError, EndpointError, RefusedError: as in `evaluate`.
    """
    decoding = decoding or Decoding()
    by_id = {item.item: item for item in items}
    asked = select(list(by_id), run.limit)
    is_greedy = decoding.samples == 1
    prompts = [json.dumps([by_id[item].prompt, by_id[item].tests]) for item in asked]
    if not is_greedy:
        prompts.append(json.dumps(asdict(decoding)))

    def compute(ids: Sequence[str]) -> tuple[dict[str, float], int]:
        shortened = model.shortened
        scored = run_code(model, [by_id[item] for item in ids], sandbox, decoding)
        values = {one.item: one.value for one in scored}
        # Every sample of an item is a request with the same prompt.
        return values, (model.shortened - shortened) // decoding.samples

    return _evaluate(
        replace(benchmark, name=decoding.task(benchmark.name)),
        dict.fromkeys(asked, ""),
        Identity(run.digest, _sha256(asked), _sha256(prompts)),
        len(asked) == len(by_id),
        run,
        compute,
        report,
        lambda shares: {} if is_greedy else pass_rates(shares, decoding.samples),
        max(1, CHUNK_ITEMS // decoding.samples),
    )


def _evaluate(
    benchmark: Benchmark,
    asked: Mapping[str, str],
    identity: Identity,
    is_complete: bool,
    run: Run,
    compute: Callable[[Sequence[str]], tuple[dict[str, float], int]],
    report: Progress,
    more: Callable[[Sequence[float]], dict[str, float]] = lambda values: {},
    chunk_items: int = CHUNK_ITEMS,
) -> Evaluated:
    """Compute the items that are not in the journal, and store the score.

    Args:
        asked: name of the part by id, in order.
        compute: returns the values of items by id, and the number of shortened prompts.
        more: further figures of the breakdown, from the values of all items.
        chunk_items: number of items between two writes of the journal.
    """
    suffix = "" if is_complete else f".{len(asked)}"
    suffix += f".{ENDPOINT}" if run.model.source == ENDPOINT else ""
    path = (
        run.store.folder(run.model.version, benchmark.name) / f".{benchmark.name}{suffix}.journal"
    )
    journal = Journal(path, identity, run.restart)
    waiting = [item for item in asked if item not in journal.values]
    for start in range(0, len(waiting), chunk_items):
        began = time.monotonic()
        values, shortened = compute(waiting[start : start + chunk_items])
        journal.add(values, time.monotonic() - began, shortened)
        report(len(journal.values), len(asked), journal.seconds)
    items = [ItemScore(item, journal.values[item]) for item in asked]
    estimate = clustered_mean([item.value for item in items], list(asked))
    by_part: defaultdict[str, list[float]] = defaultdict(list)
    for item in items:
        by_part[asked[item.item]].append(item.value)
    score = TaskScore(
        version=run.model.version,
        task=benchmark.name,
        metric=benchmark.metric,
        value=estimate.value,
        standard_error=estimate.error,
        items=len(items),
        items_sha256=identity.items_sha256,
        prompts_sha256=identity.prompts_sha256,
        chance=benchmark.chance,
        is_complete=is_complete,
        seconds=round(journal.seconds, 1),
        finished=now(),
        breakdown={name: math.fsum(found) / len(found) for name, found in by_part.items() if name}
        | more([item.value for item in items]),
        source=run.model.source,
        model_sha256=run.model.sha256,
    )
    note = run.store.offer(score, items, replace_model=run.restart)
    return Evaluated(score, items, len(asked) - len(waiting), journal.shortened, note)


def _values(
    benchmark: Benchmark, asked: Sequence[Question], model: EndpointModel
) -> dict[str, float]:
    """Return the metric of each item."""
    requests = [request for question in asked for request in question.requests]
    by_type: defaultdict[str, list[Instance]] = defaultdict(list)
    for request in requests:
        by_type[request.request_type].append(request)
    for kind, same in by_type.items():
        answers = getattr(model, kind)(same, disable_tqdm=True)
        for request, answer in zip(same, answers, strict=True):
            request.resps = [answer]
    found = {}
    for question in asked:
        task = question.part.task
        for pipeline in task._filters:
            pipeline.apply(question.requests)
        metrics = task.process_results(
            task.task_docs[question.place],
            [request.filtered_resps[benchmark.filter] for request in question.requests],
        )
        found[question.id] = float(metrics[benchmark.metric])
    return found


def _sha256(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()
