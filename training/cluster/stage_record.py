"""stage.json: what a stage was begun with, and every time that it was begun again. Written before
anything is learned, so that a run that failed can be read and compared too. Data that has not
changed since is not read again for its hash: it may be terabytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from training.manifest import MANIFEST, hash_file, plain
from training.runs import write_json
from training.stages.context import ConfigError

RECORD = "stage.json"
OUTPUT = "output_directory"
SCRATCH = "scratch"  # beside the record: of a run whose checkpoints lie in a bucket
WHO_WORKS = {"lineage", "machine", "parallelism"}
PACE = (
    "checkpoint_every_steps",
    "checkpoint_every_updates",
)  # how often state is kept, which changes no weight
UNHASHED = "no manifest"  # of a directory whose files would have to be hashed one by one


@dataclass(frozen=True)
class Start:
    """One time that the stage was begun, or taken up again. config_sha256: of the config that it
    was given then.
    """

    time: str
    workers: int
    processors: int
    accelerators: tuple[str, ...]
    torch: str
    host: str
    config_sha256: str


@dataclass(frozen=True)
class Hashed:
    """A file as it was when it was read: of the same size, and not written since, it has the same
    hash.
    """

    path: str
    size: int
    written_ns: int
    sha256: str


@dataclass(frozen=True)
class StageRecord:
    """config: the last one given. data: sha256 by the config's fields that name a file, or a
    directory, of which it is the manifest's.
    hashed: the files that these are of.
    """

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, str]
    starts: tuple[Start, ...]
    hashed: tuple[Hashed, ...] = ()

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
    import torch

    fields = {**plain(config), OUTPUT: str(config.output_directory)}
    start = Start(
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        workers=workers,
        processors=len(os.sched_getaffinity(0)),
        accelerators=tuple(
            torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())
        ),
        torch=torch.__version__,
        host=platform.machine(),
        config_sha256=hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest(),
    )
    before = read_record(directory)
    starts = (*before.starts, start) if before else (start,)
    known = {one.path: one for one in before.hashed} if before else {}
    found = {name: _hashed(path, known) for name, path in _inputs(config, "") if path.exists()}
    data = {name: one.sha256 if one else UNHASHED for name, one in found.items()}
    kept = {one.path: one for one in found.values() if one}
    write_json(
        directory / RECORD, asdict(StageRecord(name, fields, data, starts, tuple(kept.values())))
    )


def refuse_other(
    config: StageConfig, directory: Path, asked: Sequence[str] = (), other: str = "folder"
) -> None:
    """A folder is of one run: going on with another config would mix two. Other code may go on, on
    another machine and in another layout; and a run of which no step is kept may be begun anew
    (begin_anew).

    Args:
        asked: fields that somebody named, which the error names before those that follow from them.
        other: what to take in place of this one.

    Raises:
        ConfigError: it was begun with another, or what it would write is there already; names a
            field that differs.
    """
    before = read_record(directory)
    if before is None:
        if (config.output_directory / MANIFEST).exists():
            raise ConfigError(
                f"{OUTPUT}: {config.output_directory} was made by another run; take another {other}",
                field=OUTPUT,
                reason="EXISTS",
            )
        return
    found = _different(before, config) if _is_kept(before, directory) else {}
    for name in sorted(found, key=lambda name: (_place(name, asked), name)):
        was, now = map(_told, found[name])
        raise ConfigError(
            f"{name}: {directory.name} was begun with {was}, not {now}; take another {other}",
            field=name,
            reason="MISMATCH",
            limit=was,
        )


def begin_anew(config: StageConfig, directory: Path) -> None:
    """Remove what is left of a run that was begun with another config and kept no step;
    refuse_other refuses the rest.
    """
    before = read_record(directory)
    if before and _different(before, config) and not _is_kept(before, directory):
        shutil.rmtree(directory)


def kept_step(directory: Path) -> int:
    """The newest step whose state lies there; 0: there is none."""
    from training.stages.state import CHECKPOINT_NAME, newest_first

    newest = next(iter(newest_first(path.name for path in directory.glob("*"))), "")
    return int(named[2]) if (named := CHECKPOINT_NAME.fullmatch(newest)) else 0


def read_record(directory: Path) -> StageRecord | None:
    """The record there; None where a stage never began."""
    path = directory / RECORD
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    starts = tuple(
        Start(**{**start, "accelerators": tuple(start["accelerators"])})
        for start in fields.pop("starts")
    )
    hashed = tuple(
        Hashed(**one) for one in fields.pop("hashed", ())
    )  # none: noted before hashes were kept
    return StageRecord(**fields, starts=starts, hashed=hashed)


def _is_kept(record: StageRecord, directory: Path) -> bool:
    """Whether something would be lost with the folder. Of what lies in a bucket nothing is known
    here.
    """
    return (
        kept_step(directory) > 0
        or (directory / SCRATCH).exists()
        or (record.output_directory / MANIFEST).exists()
    )


def _different(record: StageRecord, config: StageConfig) -> dict[str, tuple[object, object]]:
    """The fields that are not as they were, by their whole names: what was, and what is given."""
    given: dict[str, Any] = json.loads(
        json.dumps({**plain(config), OUTPUT: str(config.output_directory)})
    )
    # Samplers that go ahead wait at each checkpoint.
    unlike = WHO_WORKS if given.get("max_staleness_updates") else WHO_WORKS.union(PACE)
    names = given.keys() & record.config.keys() - unlike
    leaves = (leaf for name in names for leaf in _leaves(name, record.config[name], given[name]))
    return {name: (was, now) for name, was, now in leaves if was != now}


def _leaves(name: str, was: object, now: object) -> Iterator[tuple[str, object, object]]:
    """Fields of both, down to those without fields of their own."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for field in was.keys() & now.keys():
            yield from _leaves(f"{name}.{field}", was[field], now[field])
    else:
        yield name, was, now


def _place(name: str, asked: Sequence[str]) -> int:
    """Where a field, or one of its own, stands among those that were asked for; after all of them
    if it does not.
    """
    places = [place for place, one in enumerate(asked) if f"{one}.".startswith(f"{name}.")]
    return min(places, default=len(asked))


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{field} {_told(one)}" for field, one in value.items())
    return "none" if value is None else str(value)


def _hashed(path: Path, known: Mapping[str, Hashed]) -> Hashed | None:
    """A file, or the manifest of a directory; None: it has none."""
    file = path / MANIFEST if path.is_dir() else path
    if not file.is_file():
        return None
    stat = file.stat()  # before it is read: what is written meanwhile is read again the next time
    before = known.get(str(file))
    if before and (before.size, before.written_ns) == (stat.st_size, stat.st_mtime_ns):
        return before
    return Hashed(str(file), stat.st_size, stat.st_mtime_ns, hash_file(file))


def _inputs(config: object, within: str) -> Iterator[tuple[str, Path]]:
    """The paths that a config names, but for what it writes."""
    if not dataclasses.is_dataclass(config):
        return
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path) and field.name != OUTPUT:
            yield within + field.name, value
        yield from _inputs(value, f"{within}{field.name}.")
