"""Scores of versions on benchmark tasks and probes: one file for each version and task.

A score is written after its items, by an atomic rename, so that an interrupted run leaves the items
that were finished and no score. Two scores are comparable only if their items and their rendered
prompts are equal, which their hashes show, and if both are of the weights or both of an endpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from durable_files.files import make_directory, publish, write_json
from training.artifacts.registry import VERSION
from training.errors import DetailedError

# Sources of a score: weights in float32 with arithmetic of this project, or a model server with
# arithmetic of its own, for example weights in 8 bits.
WEIGHTS, ENDPOINT = "weights", "endpoint"
TASK = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
NOT_STORED = "not stored"


class ScoreError(DetailedError, ValueError):
    """A stored score is unreadable, or two scores are not comparable; the text names the field."""

    reason = "INVALID_SCORE"


@dataclass(frozen=True)
class ScoredModel:
    """Model with stored scores: name, source and hash.

    Attributes:
        version: name of the model in the store.
        source: of the scores, WEIGHTS or ENDPOINT.
        sha256: hash of the model's files, or of its description by the endpoint; "" for a directory
            without a manifest.
    """

    version: str
    source: str = WEIGHTS
    sha256: str = ""


@dataclass(frozen=True)
class ItemScore:
    """Result of one item.

    Attributes:
        item: id of the item within its task.
        value: the metric's value, for example 1.0 for a correct answer.
        weight: weight in the mean, for example the bytes of a text; 1 for most tasks.
    """

    item: str
    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class TaskScore:
    """Score of one version on one task.

    Attributes:
        metric: for example "acc_norm", "exact_match", "pass@1", "bits_per_byte".
        standard_error: of the weighted mean over items.
        items: number of items.
        items_sha256: hash of the ids of the items, in order.
        prompts_sha256: hash of the rendered prompts, in order of the items.
        chance: score of random choice; None if there is no such level.
        is_complete: the task's full list of items was used.
        seconds: wall time of the evaluation.
        finished: time in ISO 8601, UTC.
        breakdown: values of parts of the task, for example of MMLU's subjects.
        source, model_sha256: those of the ScoredModel; the hash is "" in scores of earlier
            releases.
    """

    version: str
    task: str
    metric: str
    value: float
    standard_error: float
    items: int
    items_sha256: str
    prompts_sha256: str
    higher_is_better: bool = True
    chance: float | None = None
    is_complete: bool = True
    seconds: float = 0.0
    finished: str = ""
    breakdown: Mapping[str, float] = field(default_factory=dict)
    source: str = WEIGHTS
    model_sha256: str = ""


class ScoreStore:
    """Scores in a folder `evaluations/<version>/`, with the items of a task in a file beside."""

    def __init__(self, root: Path) -> None:
        """Open the store.

        Args:
            root: state folder of the loop; the scores are in its folder `evaluations`.
        """
        self.root = root / "evaluations"

    def write(self, score: TaskScore, items: Sequence[ItemScore]) -> None:
        """Replace the score of a version on a task, and its items."""
        folder = self.folder(score.version, score.task)
        make_directory(folder)
        draft = folder / f".{score.task}.items.draft"
        with draft.open("w") as opened:
            for item in items:
                opened.write(json.dumps(asdict(item)) + "\n")
        publish(draft, folder / f"{score.task}.items.jsonl")
        write_json(folder / f"{score.task}.json", asdict(score))

    def offer(
        self, score: TaskScore, items: Sequence[ItemScore], *, replace_model: bool = False
    ) -> str:
        """Store a score unless a better founded score is stored; return a note for the user.

        A part of the items never replaces all items or a larger part. A score of an endpoint never
        replaces a score of the weights; the opposite is allowed.

        Args:
            replace_model: replace a score of another model of the same name.

        Returns:
            "" for a score without a remark; a text that begins with NOT_STORED for a refused
            score.
        """
        known = self.score(score.version, score.task)
        if known is not None:
            obstacle = _obstacle(known, score)
            model = ScoredModel(score.version, score.source, score.model_sha256)
            if not replace_model and _is_other_model(known, model):
                obstacle = "a score of another model is stored"
            if obstacle:
                return f"{NOT_STORED}, because {obstacle} for {score.version}"
        self.write(score, items)
        is_other_source = known is not None and known.source != score.source
        return "replaces a score of an endpoint" if is_other_source else ""

    def scores(self, version: str) -> dict[str, TaskScore]:
        """Return the scores of a version by task; empty for an unknown version.

        Raises:
            ScoreError: a file is not a score.
        """
        paths = sorted(self.folder(version).glob("*.json"))
        return {score.task: score for score in map(_read, paths)}

    def score(self, version: str, task: str) -> TaskScore | None:
        """Return the score of a version on a task; other scores are not read.

        Raises:
            ScoreError: the file is not a score.
        """
        path = self.folder(version, task) / f"{task}.json"
        return _read(path) if path.exists() else None

    def require_model(self, model: ScoredModel, tasks: Iterable[str]) -> None:
        """Check before a measurement that its scores would not replace those of another model.

        Raises:
            ScoreError: another model has a score of one of the tasks under this name.
        """
        for task in tasks:
            known = self.score(model.version, task)
            if known is not None and _is_other_model(known, model):
                raise ScoreError(
                    f"version: another model has a score of {task} under the name "
                    f"{model.version}; choose another name with --version",
                    field="version",
                    reason="CONFLICT",
                    limit="a name without scores of another model",
                )

    def items(self, version: str, task: str) -> list[ItemScore]:
        """Return the items behind a score, in their order.

        Raises:
            ScoreError: the version has no score for the task, or the file is unreadable.
        """
        path = self.folder(version, task) / f"{task}.items.jsonl"
        try:
            with path.open() as opened:
                return [ItemScore(**json.loads(line)) for line in opened]
        except (OSError, TypeError, ValueError) as error:
            raise ScoreError(f"{path} has no readable items", field=path.name) from error

    def versions(self) -> list[str]:
        """Return the versions with at least one score, sorted by name."""
        return sorted({path.parent.name for path in self.root.glob("*/*.json")})

    def folder(self, version: str, task: str = "any") -> Path:
        """Return the folder of a version; it may be missing.

        Raises:
            ScoreError: the name of the version or of the task is malformed.
        """
        for name, value, shape in (("version", version, VERSION), ("task", task, TASK)):
            if not shape.fullmatch(value):
                limit = "a lower-case letter or digit, then a-z, 0-9, '_', '.', '-'"
                raise ScoreError(f"{name}: {value!r} is not {limit}", field=name, limit=limit)
        return self.root / version


def _read(path: Path) -> TaskScore:
    try:
        return TaskScore(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ScoreError(f"{path} is not a score", field=path.name) from error


def _is_other_model(known: TaskScore, model: ScoredModel) -> bool:
    # Hashes of weights and of descriptions cannot be compared.
    return known.source == model.source and known.model_sha256 not in ("", model.sha256)


def _obstacle(known: TaskScore, score: TaskScore) -> str:
    """Return the reason against the replacement of a known score; "" for none."""
    if known.source != score.source:
        return "" if score.source == WEIGHTS else "a score of the weights is stored"
    if score.is_complete:
        return ""
    if known.is_complete:
        return "a score of all items is stored"
    return f"a score of {known.items} items is stored" if known.items > score.items else ""


def require_comparable(first: TaskScore, second: TaskScore) -> None:
    """Check that two scores have the same task, metric, source, items and prompts.

    Raises:
        ScoreError: they differ; `field` is the first field that differs.
    """
    for name in ("task", "metric", "source", "items_sha256", "prompts_sha256"):
        if getattr(first, name) != getattr(second, name):
            raise ScoreError(
                f"{first.version} and {second.version} cannot be compared on {first.task}: "
                f"{name} differs",
                field=name,
            )


def by_item(items: Iterable[ItemScore]) -> dict[str, ItemScore]:
    """Return items by their ids."""
    return {item.item: item for item in items}
