"""stage.json: config and data of a stage, and all its starts.

The file is written before training, so that failed runs can be inspected and compared. Unchanged
data files are not hashed again, because they may have terabytes.

failure.txt has the error that ended a stage without an output, for the page of the stage. The file
is removed when the stage starts again. A requested stop is not a failure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from training.artifacts.manifest import MANIFEST, hash_file, plain
from training.errors import ConfigError
from training.runs import write_json

RECORD = "stage.json"
OUTPUT = "output_directory"
SCRATCH = "scratch"  # next to the record, for runs with checkpoints in a bucket
MACHINE_FIELDS = {"lineage", "machine", "parallelism"}
# Frequency of checkpoints, which has no influence on weights.
CHECKPOINT_FIELDS = ("checkpoint_every_steps", "checkpoint_every_updates")
UNHASHED = "no manifest"  # for directories that would have to be hashed file by file
FAILURE = "failure.txt"


@dataclass(frozen=True)
class Start:
    """One start or resume of the stage.

    Attributes:
        config_sha256: hash of the config of this start.
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
    """Hash of a file, valid while size and modification time are unchanged."""

    path: str
    size: int
    written_ns: int
    sha256: str


@dataclass(frozen=True)
class StageRecord:
    """Record of a stage.

    Attributes:
        config: config of the last start.
        data: sha256 by config field; for a directory the hash of its manifest.
        hashed: files of these hashes.
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


class ConfigWithOutput(Protocol):
    """Config of a stage: a dataclass.

    The output directory may be a field of a nested config.
    """

    @property
    def output_directory(self) -> Path: ...


def record_start(name: str, config: ConfigWithOutput, directory: Path, workers: int) -> None:
    """Add a start to the record in `directory`; create the record if needed."""
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


def check_same_run(
    config: ConfigWithOutput, directory: Path, asked: Sequence[str] = (), other: str = "folder"
) -> None:
    """Check that the folder belongs to this run.

    A run cannot continue with another config. It can continue with other code, on another machine
    and in another layout. A run without a saved step may be started again (`remove_unsaved_run`).

    Args:
        asked: fields set by the user, which errors name before dependent fields.
        other: what to choose instead, for the message.

    Raises:
        ConfigError: the folder was started with another config, or its output exists already; names
            a field that differs.
    """
    before = read_record(directory)
    if before is None:
        if (config.output_directory / MANIFEST).exists():
            raise ConfigError(
                f"{OUTPUT}: {config.output_directory} is the output of another run; "
                f"choose another {other}",
                field=OUTPUT,
                reason="EXISTS",
            )
        return
    found = _different(before, config) if _is_kept(before, directory) else {}
    # Fields that the user set come first, in their order; a field is also set by one of its parts.
    places = {
        name: [place for place, one in enumerate(asked) if f"{one}.".startswith(f"{name}.")]
        for name in found
    }
    for name in sorted(found, key=lambda name: (min(places[name], default=len(asked)), name)):
        was, now = map(_value_text, found[name])
        raise ConfigError(
            f"{name}: {directory.name} was started with {was}, not {now}; choose another {other}",
            field=name,
            reason="MISMATCH",
            limit=was,
        )


def remove_unsaved_run(config: ConfigWithOutput, directory: Path) -> None:
    """Remove the remains of a run with another config and without a saved step.

    Other cases are rejected by `check_same_run`.
    """
    before = read_record(directory)
    if before and _different(before, config) and not _is_kept(before, directory):
        shutil.rmtree(directory)


def saved_step(directory: Path) -> int:
    """Return the newest saved step in the folder, or 0."""
    from training.runtime.training_state import CHECKPOINT_NAME, newest_first

    newest = next(iter(newest_first(path.name for path in directory.glob("*"))), "")
    return int(named[2]) if (named := CHECKPOINT_NAME.fullmatch(newest)) else 0


def read_record(directory: Path) -> StageRecord | None:
    """Return the record in the folder, or None if the stage never started."""
    path = directory / RECORD
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    starts = tuple(
        Start(**{**start, "accelerators": tuple(start["accelerators"])})
        for start in fields.pop("starts")
    )
    # Records of earlier versions have no hashes.
    hashed = tuple(Hashed(**one) for one in fields.pop("hashed", ()))
    return StageRecord(**fields, starts=starts, hashed=hashed)


def _is_kept(record: StageRecord, directory: Path) -> bool:
    """Return True if the folder holds state that exists nowhere else.

    A scratch folder counts, because the state of checkpoints in a bucket is unknown here.
    """
    return (
        saved_step(directory) > 0
        or (directory / SCRATCH).exists()
        or (record.output_directory / MANIFEST).exists()
    )


def _different(record: StageRecord, config: ConfigWithOutput) -> dict[str, tuple[object, object]]:
    """Return the fields that differ, by full name, with recorded and given value."""
    given: dict[str, Any] = json.loads(
        json.dumps({**plain(config), OUTPUT: str(config.output_directory)})
    )
    # Samplers that run ahead wait at each checkpoint, so its frequency matters.
    unlike = (
        MACHINE_FIELDS
        if given.get("max_staleness_updates")
        else MACHINE_FIELDS.union(CHECKPOINT_FIELDS)
    )
    names = given.keys() & record.config.keys() - unlike
    leaves = (leaf for name in names for leaf in _leaves(name, record.config[name], given[name]))
    return {name: (was, now) for name, was, now in leaves if was != now}


def _leaves(name: str, was: object, now: object) -> Iterator[tuple[str, object, object]]:
    """Yield fields of both mappings, down to values that are not mappings."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for field in was.keys() & now.keys():
            yield from _leaves(f"{name}.{field}", was[field], now[field])
    else:
        yield name, was, now


def _value_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{field} {_value_text(one)}" for field, one in value.items())
    return "none" if value is None else str(value)


def _hashed(path: Path, known: Mapping[str, Hashed]) -> Hashed | None:
    """Return the hash of a file, or of the manifest of a directory; None without a manifest."""
    file = path / MANIFEST if path.is_dir() else path
    if not file.is_file():
        return None
    stat = file.stat()  # before reading, so that concurrent changes are detected next time
    before = known.get(str(file))
    if before and (before.size, before.written_ns) == (stat.st_size, stat.st_mtime_ns):
        return before
    return Hashed(str(file), stat.st_size, stat.st_mtime_ns, hash_file(file))


def _inputs(config: object, within: str) -> Iterator[tuple[str, Path]]:
    """Yield the paths in a config, except for the output directory."""
    if not dataclasses.is_dataclass(config):
        return
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path) and field.name != OUTPUT:
            yield within + field.name, value
        yield from _inputs(value, f"{within}{field.name}.")


@contextmanager
def recorded_failure(directory: Path) -> Iterator[None]:
    """Write the exception of the block to failure.txt; unexpected errors with their class."""
    path = directory / FAILURE
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        path.write_text(
            str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        )
        raise


def read_failure(directory: Path) -> str:
    """Return the error of the last start, or ""."""
    path = directory / FAILURE
    return path.read_text() if path.exists() else ""
