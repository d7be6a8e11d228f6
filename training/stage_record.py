"""stage.json: config and inputs of a stage, and all its starts.

The file is written before training, so failed runs can be inspected and compared. The hashes
of the inputs are never replaced after a step was saved: a start with other inputs is refused then.

failure.txt has the error of a stage without an output, for the page of the stage. The next start
removes the file. A requested stop is not a failure.
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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from durable_files.files import write_json
from training.artifacts.inputs import UNHASHED, hash_input
from training.artifacts.manifest import MANIFEST, plain
from training.errors import ConfigError

RECORD = "stage.json"
OUTPUT = "output_directory"
SCRATCH = "scratch"  # next to the record, for runs with checkpoints in a bucket
MACHINE_FIELDS = {"lineage", "machine", "parallelism"}
# Frequency of checkpoints, which has no influence on weights.
CHECKPOINT_FIELDS = ("checkpoint_every_steps", "checkpoint_every_updates")
SERVER = "rollout_server"  # its paths are programs and keys, not inputs
SHORT_HASH = 12  # digits that are shown
FINISHED = "is already finished, with the same configuration and inputs"
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
class StageRecord:
    """Record of a stage.

    Attributes:
        config: config of the last start.
        data: sha256 by config field of the inputs at the first start (`hash_input`).
        is_comparable: False in records of earlier versions, whose hashes of directories were those
            of the manifest's text.
    """

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, str]
    starts: tuple[Start, ...]
    is_comparable: bool = True

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
    """Add a start to the record in `directory`; create the record if needed.

    The inputs are hashed unless the run continues from a saved step.
    """
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
    if before and _is_kept(before, directory):
        record = replace(before, config=fields, starts=starts)
    else:
        data = {field: hash_input(path) for field, path in _inputs(config, "")}
        found = {field: sha256 for field, sha256 in data.items() if sha256 is not None}
        record = StageRecord(name, fields, found, starts)
    write_json(directory / RECORD, asdict(record))


def check_same_run(
    config: ConfigWithOutput, directory: Path, asked: Sequence[str] = (), other: str = "folder"
) -> None:
    """Refuse the folder of another run, finished or not.

    A run cannot continue with another config or other inputs. Other code, another machine and
    another layout are allowed. A run without a saved step may be started again
    (`remove_unsaved_run`).

    Args:
        asked: fields set by the user; errors name them before dependent fields.
        other: the thing to choose instead, for the message.

    Raises:
        ConfigError: the folder was started with another config or other inputs, or its output
            exists already; names a field that differs.
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
    check_same_inputs(config, directory, other)


def check_same_inputs(config: ConfigWithOutput, directory: Path, other: str = "folder") -> None:
    """Refuse a run with a saved step and other inputs than at its first start.

    Args:
        other: the thing to choose instead, for the message.

    Raises:
        ConfigError: an input has changed; names its field, path and hashes.
    """
    before = kept_record(directory)
    if before is None:
        return
    for field, path, was, now in _changed_inputs(before, config):
        folders = [str(one) for one in (directory, before.output_directory) if one.exists()]
        raise ConfigError(
            changed_text(field, path, was, now, directory.name)
            + f"choose another {other}, or remove {' and '.join(folders)}",
            field=field,
            reason="CHANGED",
            limit=was[:SHORT_HASH],
        )


def changed_text(field: str, path: Path, was: str, now: str, run: str) -> str:
    """Describe a changed input of a run, with recorded and present hash."""
    return (
        f"{field}: {path} has changed since {run} was started (sha256 {was[:SHORT_HASH]} then, "
        f"{now[:SHORT_HASH]} now); "
    )


def remove_unsaved_run(config: ConfigWithOutput, directory: Path) -> None:
    """Remove the remains of a run with another config or other inputs and without a saved step.

    Other cases are rejected by `check_same_run`.
    """
    before = read_record(directory)
    if before is None or _is_kept(before, directory):
        return
    if _different(before, config) or any(_changed_inputs(before, config)):
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
    fields.pop("hashed", None)  # of earlier versions
    return StageRecord(**{"is_comparable": False, **fields}, starts=starts)


def kept_record(directory: Path) -> StageRecord | None:
    """Return the record of a run with a saved step or an output, else None."""
    record = read_record(directory)
    return record if record is not None and _is_kept(record, directory) else None


def _is_kept(record: StageRecord, directory: Path) -> bool:
    """Return True if the folder holds the only copy of a state.

    A scratch folder counts, because the state of checkpoints in a bucket is unknown here.
    """
    return (
        saved_step(directory) > 0
        or (directory / SCRATCH).exists()
        or (record.output_directory / MANIFEST).exists()
    )


def _different(record: StageRecord, config: ConfigWithOutput) -> dict[str, tuple[object, object]]:
    """Return different fields by full name, with recorded and given value."""
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
    """Yield the fields of both mappings, and of the mappings inside, with both values."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for field in was.keys() & now.keys():
            yield from _leaves(f"{name}.{field}", was[field], now[field])
    else:
        yield name, was, now


def _value_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{field} {_value_text(one)}" for field, one in value.items())
    return "none" if value is None else str(value)


def _changed_inputs(
    record: StageRecord, config: ConfigWithOutput
) -> Iterator[tuple[str, Path, str, str]]:
    """Yield field, path, recorded and present hash of inputs with other contents.

    Missing inputs are left out: a finished run does not need them, others fail when they read them.
    """
    for field, path in _inputs(config, "") if record.is_comparable else ():
        was = record.data.get(field, UNHASHED)
        now = hash_input(path) if was != UNHASHED else None
        if now is not None and now not in (UNHASHED, was):
            yield field, path, was, now


def _inputs(config: object, within: str) -> Iterator[tuple[str, Path]]:
    """Yield the inputs of a config: its paths, except for the output directory and a server's."""
    if not dataclasses.is_dataclass(config):
        return
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path) and field.name != OUTPUT:
            yield within + field.name, value
        if field.name != SERVER:
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
