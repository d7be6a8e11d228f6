"""Immutable snapshots of the feedback log, pinned by id in training.

The id is a hash of the content. The same log and settings give the same snapshot at any time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from durable_files.files import make_directory, publish
from training.artifacts.manifest import (
    MANIFEST,
    Manifest,
    hash_file,
    read_manifest,
    verify_manifest,
    write_manifest,
)
from training.data.chat import Message
from training.data.feedback.catalogue import (
    Catalogue,
    ObjectMissingError,
    Objects,
    Segment,
    read_segment,
)
from training.data.feedback.drops import Dropped
from training.data.feedback.events import Feedback, Turn
from training.data.feedback.judgements import GivenFeedback, Judgement, judge
from training.data.feedback.rankings import RankedText, Ranking
from training.data.feedback.rows import Decryptor, KeyLog, feedback_rows, load_decryptor, turn_rows
from training.data.feedback.sources import Source
from training.data.served import served_from
from training.runtime.ranges import Count, check_fields

JUDGEMENTS = "judgements.jsonl"
RANKINGS = "rankings.jsonl"  # missing without rankings
DROPPED = "dropped.jsonl"
ID_DIGITS = 12


@dataclass(frozen=True)
class SnapshotConfig:
    """Settings of a snapshot.

    max_per_principal limits the number of judgements per user. train_external names the external
    models, without the prefix, whose answers may train; their licences must allow that.
    """

    max_per_principal: Count = 200
    train_external: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Snapshot:
    """A finished snapshot on disk. `sha256` is the hash of the judgements and rankings."""

    directory: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.version

    @property
    def sha256(self) -> str:
        files = self.manifest.files
        if RANKINGS not in files:
            return files[JUDGEMENTS]
        both = f"{files[JUDGEMENTS]}\n{files[RANKINGS]}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def thumbs(self) -> int:
        return int(self.manifest.report["thumbs_up"] + self.manifest.report["thumbs_down"])

    @property
    def rankings(self) -> int:
        """Number of votes and rankings."""
        report = self.manifest.report
        return int(report.get("votes", 0) + report.get("rankings", 0))


class Log(Catalogue, KeyLog, Protocol):
    """Source of a snapshot: segments, keys and erasures."""


Read = tuple[pa.Table, Segment]


@dataclass(frozen=True)
class LogEvents:
    """Committed events of both streams, and the segments that they come from."""

    segments: dict[str, Sequence[Segment]]
    feedback: Sequence[Feedback]
    turns: Sequence[Turn]


def read_events(log: Log, objects: Objects) -> LogEvents:
    """Read all committed events, with the texts of people who allow training.

    Raises:
        CatalogueError: an object is unavailable or differs from the ledger.
        RowError: a row lacks a required column.
        SealError: the sealed texts of a row were changed.
    """
    try:
        segments, feedback, turns = _read(log, objects)
    except ObjectMissingError:
        # Compaction deletes replaced objects, possibly after the listing; list again once.
        segments, feedback, turns = _read(log, objects)
    decryptor = load_decryptor(log, (table for table, _ in (*feedback, *turns)))
    return LogEvents(
        segments,
        _rows(feedback, feedback_rows, decryptor),
        _rows(turns, turn_rows, decryptor),
    )


def take_snapshot(
    log: Log,
    objects: Objects,
    config: SnapshotConfig,
    into: Path,
    code_commit: str,
    quarantined: Collection[str] = (),
) -> Snapshot:
    """Read all committed, readable data and write the snapshot to `into`/<id> unless present.

    Args:
        quarantined: accounts whose feedback is left out.

    Raises:
        CatalogueError, RowError, SealError: as `read_events`.
    """
    events = read_events(log, objects)
    given, dropped = judge(
        events.feedback,
        events.turns,
        config.max_per_principal,
        config.train_external,
        quarantined,
    )
    return write_snapshot(given, dropped, config, into, code_commit, events.segments)


def write_snapshot(
    given: Sequence[GivenFeedback],
    dropped: Sequence[Dropped],
    config: SnapshotConfig,
    into: Path,
    code_commit: str,
    segments: dict[str, Sequence[Segment]],
) -> Snapshot:
    """Write the files, then rename the directory to its id, so no partial snapshot has an id."""
    partial = into / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    make_directory(into)
    partial.mkdir()
    judgements = [one for one in given if isinstance(one, Judgement)]
    rankings = [one for one in given if isinstance(one, Ranking)]
    lines = [asdict(judgement) for judgement in judgements]
    for line in lines:
        # Logs without samples, cut answers or reviewers thus give the same snapshot id in all
        # versions.
        for name, default in (("served", None), ("cut", False), ("rater", "")):
            if line[name] == default:
                del line[name]
    _write_lines(partial / JUDGEMENTS, lines)
    _write_lines(partial / DROPPED, (asdict(drop) for drop in dropped))
    parts = [
        hash_file(partial / JUDGEMENTS),
        hash_file(partial / DROPPED),
        json.dumps(_identifying(config), sort_keys=True),
    ]
    if rankings:
        _write_lines(partial / RANKINGS, (asdict(ranking) for ranking in rankings))
        parts.append(hash_file(partial / RANKINGS))
    version = "snapshot-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:ID_DIGITS]
    directory = into / version
    # An erased snapshot has the same content only after identical feedback arrived again.
    if (directory / MANIFEST).exists() and not (before := read_manifest(directory)).erased:
        shutil.rmtree(partial)
        return Snapshot(directory, before)
    manifest = write_manifest(
        partial,
        kind="snapshot",
        version=version,
        config=config,
        code_commit=code_commit,
        report=_report(judgements, rankings, dropped, segments),
    )
    publish(partial, directory)
    return Snapshot(directory, manifest)


def _identifying(config: SnapshotConfig) -> dict[str, Any]:
    """Return the settings of the id. A new one that is unset keeps the ids of earlier versions."""
    values = asdict(config)
    if not config.train_external:
        del values["train_external"]
    return values


def _report(
    judgements: Sequence[Judgement],
    rankings: Sequence[Ranking],
    dropped: Sequence[Dropped],
    segments: dict[str, Sequence[Segment]],
) -> dict[str, Any]:
    """Return the figures for the manifest."""
    given: list[GivenFeedback] = [*judgements, *rankings]
    return {
        "judgements": len(judgements),
        "thumbs_up": sum(j.up is True for j in judgements),
        "thumbs_down": sum(j.up is False for j in judgements),
        "corrections": sum(j.correction is not None and not j.rater for j in judgements),
        "written": sum(j.correction is not None and bool(j.rater) for j in judgements),
        "votes": sum(r.source is Source.ARENA for r in rankings),
        "rankings": sum(r.source is Source.RANKING for r in rankings),
        "ranked_answers_left_out": sum(r.left_out for r in rankings),
        "principals": len({name for one in given for name in people_of(one)}),
        "raters": len({one.rater for one in given if one.rater}),
        "by_version": dict(sorted(Counter(j.model_version for j in judgements).items())),
        "sampled_by_version": dict(
            sorted(Counter(j.model_version for j in judgements if j.served).items())
        ),
        "dropped": dict(sorted(Counter(str(d.reason) for d in dropped).items())),
        "segments": {
            name: [
                {"object": s.object_key, "sha256": s.sha256, "sequence": s.sequence} for s in some
            ]
            for name, some in segments.items()
        },
    }


def open_snapshot(directory: Path) -> Snapshot:
    """Open a snapshot and verify all file hashes.

    Raises:
        ManifestError: a file is missing or changed.
    """
    return Snapshot(directory, verify_manifest(directory))


def read_judgements(snapshot: Snapshot) -> list[Judgement]:
    """Return the judgements of a snapshot in file order."""
    with (snapshot.directory / JUDGEMENTS).open() as opened:
        rows = [json.loads(line) for line in opened]
    judgements = []
    for fields in rows:
        context = tuple(Message(**message) for message in fields.pop("context"))
        sample = fields.pop("served", None)
        served = served_from(sample) if sample else None
        judgements.append(Judgement(context=context, served=served, **fields))
    return judgements


def read_rankings(snapshot: Snapshot) -> list[Ranking]:
    """Return the rankings of a snapshot in file order."""
    path = snapshot.directory / RANKINGS
    if not path.exists():
        return []
    rankings = []
    with path.open() as opened:
        for fields in map(json.loads, opened):
            context = tuple(Message(**message) for message in fields.pop("context"))
            answers = tuple(RankedText(**answer) for answer in fields.pop("answers"))
            source = Source(fields.pop("source"))
            rankings.append(Ranking(context=context, answers=answers, source=source, **fields))
    return rankings


def read_feedback(snapshot: Snapshot) -> list[GivenFeedback]:
    """Return the judgements and rankings of a snapshot."""
    return [*read_judgements(snapshot), *read_rankings(snapshot)]


def people_of(given: GivenFeedback) -> set[str]:
    """Return the principals whose consent a judgement or ranking needs."""
    return {given.principal, given.rater} - {""}


def _read(
    catalogue: Catalogue, objects: Objects
) -> tuple[dict[str, Sequence[Segment]], list[Read], list[Read]]:
    """Return the committed segments of both streams, and their objects."""
    segments = {"feedback": catalogue.feedback_segments(), "turns": catalogue.turn_segments()}
    feedback, turns = (
        [(read_segment(objects, s), s) for s in some if s.object_key] for some in segments.values()
    )
    return segments, feedback, turns


def _rows(
    read: Sequence[Read],
    parse: Callable[[pa.Table, Segment, Decryptor], Iterable[Any]],
    decryptor: Decryptor,
) -> list[Any]:
    return [row for table, segment in read for row in parse(table, segment, decryptor)]


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w") as opened:
        for row in rows:
            opened.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
