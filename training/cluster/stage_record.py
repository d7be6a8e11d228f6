"""stage.json: what a stage was begun with, and every time that it was begun again. Written before anything is learned, so that a run
that failed can be read and compared too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from training.manifest import MANIFEST, hash_file, plain
from training.runs import write_json

RECORD = "stage.json"
OUTPUT = "output_directory"
UNHASHED = "no manifest"  # of a directory whose files would have to be hashed one by one


@dataclass(frozen=True)
class Start:
    """One time that the stage was begun, or taken up again. config_sha256: of the config that it was given then."""

    time: str
    workers: int
    processors: int
    accelerators: tuple[str, ...]
    torch: str
    host: str
    config_sha256: str


@dataclass(frozen=True)
class StageRecord:
    """config: the last one given. data: sha256 by the config's fields that name a file, or a directory, of which it is the manifest's."""

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, str]
    starts: tuple[Start, ...]

    @property
    def config_sha256(self) -> str:
        return self.starts[-1].config_sha256

    @property
    def output_directory(self) -> Path:
        return Path(self.config[OUTPUT])

    @property
    def code_commit(self) -> str:
        return str((self.config.get("lineage") or {}).get("code_commit", ""))


class StageConfig(Protocol):
    """A stage's config: a dataclass, whose output may be named by a part of it."""

    @property
    def output_directory(self) -> Path: ...


def note_start(name: str, config: StageConfig, directory: Path, workers: int) -> None:
    """Add a start to the record in `directory`, or begin it."""
    fields = {**plain(config), OUTPUT: str(config.output_directory)}
    start = Start(
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        workers=workers,
        processors=len(os.sched_getaffinity(0)),
        accelerators=tuple(torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())),
        torch=torch.__version__,
        host=platform.machine(),
        config_sha256=hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest(),
    )
    before = read_record(directory)
    starts = (*before.starts, start) if before else (start,)
    write_json(directory / RECORD, asdict(StageRecord(name, fields, dict(_hashes(config)), starts)))


def read_record(directory: Path) -> StageRecord | None:
    """The record there; None where a stage never began."""
    path = directory / RECORD
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    starts = tuple(Start(**{**start, "accelerators": tuple(start["accelerators"])}) for start in fields.pop("starts"))
    return replace(StageRecord(**fields, starts=()), starts=starts)


def _hashes(config: object) -> Iterator[tuple[str, str]]:
    for name, path in _inputs(config, ""):
        if path.is_file():
            yield name, hash_file(path)
        elif (path / MANIFEST).is_file():
            yield name, hash_file(path / MANIFEST)
        elif path.is_dir():
            yield name, UNHASHED


def _inputs(config: object, within: str) -> Iterator[tuple[str, Path]]:
    """The paths that a config names, but for what it writes."""
    if not dataclasses.is_dataclass(config):
        return
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path) and field.name != OUTPUT:
            yield within + field.name, value
        yield from _inputs(value, f"{within}{field.name}.")
