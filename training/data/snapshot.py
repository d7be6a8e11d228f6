"""The feedback log frozen: an immutable directory that training pins by its id.

The id is the hash of what is in it, so the same log and the same settings give the same snapshot,
whenever it is taken.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from training.data.catalogue import Catalogue, ObjectMissingError, Objects, Segment, read_segment
from training.data.chat import Message
from training.data.judgements import Dropped, Judgement, judge
from training.data.rows import feedback_rows, turn_rows
from training.data.sealed import KeyLog, Opening, open_with
from training.data.served import served_from
from training.errors import ConfigError
from training.manifest import (
    MANIFEST,
    Manifest,
    hash_file,
    read_manifest,
    verify_manifest,
    write_manifest,
)

JUDGEMENTS = "judgements.jsonl"
DROPPED = "dropped.jsonl"
ID_DIGITS = 12


@dataclass(frozen=True)
class SnapshotConfig:
    """max_per_principal: answers of which one user's judgement counts, so that nobody outvotes
    everybody.
    """

    max_per_principal: int = 200

    def __post_init__(self) -> None:
        if self.max_per_principal < 1:
            raise ConfigError(
                f"max_per_principal: {self.max_per_principal} is below 1",
                field="max_per_principal",
                reason="OUT_OF_RANGE",
                limit="at least 1",
            )


@dataclass(frozen=True)
class Snapshot:
    """A finished snapshot on disk. `sha256` is of its judgements file."""

    directory: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.version

    @property
    def sha256(self) -> str:
        return self.manifest.files[JUDGEMENTS]

    @property
    def thumbs(self) -> int:
        return int(self.manifest.report["thumbs_up"] + self.manifest.report["thumbs_down"])


class Log(Catalogue, KeyLog, Protocol):
    """What a snapshot is taken of."""


Read = tuple[pa.Table, Segment]


def take_snapshot(
    log: Log, objects: Objects, config: SnapshotConfig, into: Path, code_commit: str
) -> Snapshot:
    """Read all that is committed and may be read, and write the snapshot under `into`/<id>, or find
    it there already.

    Raises:
        CatalogueError: an object cannot be had, or is not what the ledger says.
        RowError: a row lacks a column without which it means nothing.
        SealError: a row's sealed texts were changed.
    """
    try:
        segments, feedback, turns = _read(log, objects)
    except ObjectMissingError:
        # Compaction deletes what it has replaced, and the listing was from before.
        segments, feedback, turns = _read(log, objects)
    opening = open_with(log, (table for table, _ in (*feedback, *turns)))
    judgements, dropped = judge(
        _rows(feedback, feedback_rows, opening),
        _rows(turns, turn_rows, opening),
        config.max_per_principal,
    )
    return write_snapshot(judgements, dropped, config, into, code_commit, segments)


def write_snapshot(
    judgements: Sequence[Judgement],
    dropped: Sequence[Dropped],
    config: SnapshotConfig,
    into: Path,
    code_commit: str,
    segments: dict[str, Sequence[Segment]],
) -> Snapshot:
    """Write the files, then rename the directory to its id, so that a half-written one never has an
    id.
    """
    partial = into / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_lines(partial / JUDGEMENTS, map(_line, judgements))
    _write_lines(partial / DROPPED, (asdict(drop) for drop in dropped))
    version = _content_id(partial, config)
    directory = into / version
    # One that was erased has the same content only if what it held was said anew.
    if (directory / MANIFEST).exists() and not (before := read_manifest(directory)).erased:
        shutil.rmtree(partial)
        return Snapshot(directory, before)
    manifest = write_manifest(
        partial,
        kind="snapshot",
        version=version,
        config=config,
        code_commit=code_commit,
        report=_report(judgements, dropped, segments),
    )
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    return Snapshot(directory, manifest)


def open_snapshot(directory: Path) -> Snapshot:
    """A snapshot on disk, every file compared with its hash. Raises ManifestError."""
    return Snapshot(directory, verify_manifest(directory))


def read_judgements(snapshot: Snapshot) -> list[Judgement]:
    """The judgements of a snapshot, in its order."""
    with (snapshot.directory / JUDGEMENTS).open() as opened:
        return [_judgement(json.loads(line)) for line in opened]


def _line(judgement: Judgement) -> dict[str, Any]:
    """Without a sample as before there were any: the same log gives the same snapshot, whichever
    version takes it.
    """
    fields = asdict(judgement)
    return (
        fields
        if judgement.served
        else {name: value for name, value in fields.items() if name != "served"}
    )


def _judgement(fields: dict[str, Any]) -> Judgement:
    context = tuple(Message(**message) for message in fields.pop("context"))
    served = served_from(sample) if (sample := fields.pop("served", None)) else None
    return Judgement(context=context, served=served, **fields)


def _read(
    catalogue: Catalogue, objects: Objects
) -> tuple[dict[str, Sequence[Segment]], list[Read], list[Read]]:
    """What is committed now: the segments of both streams, and their objects."""
    segments = {"feedback": catalogue.feedback_segments(), "turns": catalogue.turn_segments()}
    feedback, turns = (
        [(read_segment(objects, s), s) for s in some if s.object_key] for some in segments.values()
    )
    return segments, feedback, turns


def _rows(
    read: Sequence[Read],
    parse: Callable[[pa.Table, Segment, Opening], Iterable[Any]],
    opening: Opening,
) -> list[Any]:
    return [row for table, segment in read for row in parse(table, segment, opening)]


def _content_id(directory: Path, config: SnapshotConfig) -> str:
    parts = [
        hash_file(directory / JUDGEMENTS),
        hash_file(directory / DROPPED),
        json.dumps(asdict(config), sort_keys=True),
    ]
    return "snapshot-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:ID_DIGITS]


def _report(
    judgements: Sequence[Judgement],
    dropped: Sequence[Dropped],
    segments: dict[str, Sequence[Segment]],
) -> dict[str, Any]:
    return {
        "judgements": len(judgements),
        "thumbs_up": sum(j.up is True for j in judgements),
        "thumbs_down": sum(j.up is False for j in judgements),
        "corrections": sum(j.correction is not None for j in judgements),
        "principals": len({j.principal for j in judgements}),
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


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w") as opened:
        for row in rows:
            opened.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
