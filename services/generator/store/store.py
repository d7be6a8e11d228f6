"""The rollout and the counts of generations on disk, for a single generator and its commands.

Two JSON files, replaced atomically. A change of the rollout is synced before it takes effect.
Writers hold a lock, and a rollout that another process has replaced is read again.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from durable_files.files import make_directory, write_json
from durable_files.json_lines import append_lines, read_lines
from services.chassis.audit.acts import Act
from services.chassis.errors import UnavailableError
from services.generator.rollout.current_rollout import (
    NOTHING_STORED,
    STORE_UNAVAILABLE,
    StoredRollout,
    UnusableStoreError,
)
from services.generator.rollout.encoding import InvalidRolloutError, decode, encode
from services.generator.rollout.rollout import Rollout
from services.generator.rollout.traffic import ALL_TIME, CountKey, CountKind

# The file of the counts is written as a whole, so it holds the versions that were counted last.
MAX_COUNTED_VERSIONS = 20


class RolloutFile:
    """The rollout in a file; implements `RolloutStore` and, in a second file, `TrafficStore`.

    The serial number is a key of the JSON object. Files of earlier versions have none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored: StoredRollout | None = None
        self._version: tuple[int, int] | None = None

    async def load(self) -> StoredRollout:
        """Implement `RolloutStore.load`.

        Raises:
            UnusableStoreError: the content cannot be decoded. The file is never overwritten in that
                case.
            UnavailableError: the file cannot be read, or a file that was usable before cannot be
                decoded.
        """
        with _translated_errors():
            return await asyncio.to_thread(self._load)

    async def replace(self, rollout: Rollout, serial: int, act: Act | None = None) -> bool:
        """Implement `RolloutStore.replace`; after a crash the file is the old or the new one.

        The act is recorded first, so that no act without a record takes effect.
        """
        with _translated_errors():
            return await asyncio.to_thread(self._replace, rollout, serial, act)

    async def append(self, act: Act) -> None:
        with _translated_errors():
            await asyncio.to_thread(self._append, act)

    async def audit_records(self, since_us: int) -> Sequence[Mapping[str, Any]]:
        with _translated_errors():
            records = await asyncio.to_thread(read_lines, self._audit_path)
        return [record for record in records if record["time_us"] >= since_us]

    async def add_traffic(self, counts: Mapping[CountKey, int]) -> None:
        """Implement `TrafficStore.add_traffic`; the rename of the new file adds all counts."""
        with _translated_errors():
            await asyncio.to_thread(self._add_traffic, counts)

    async def read_traffic(self, versions: Sequence[str], since_us: int) -> Mapping[CountKey, int]:
        with _translated_errors():
            counts = await asyncio.to_thread(self._traffic)
        return {
            key: count
            for key, count in counts.items()
            if key.version in versions and key.since_us == since_us
        }

    async def forget_traffic(self, except_since_us: int) -> None:
        with _translated_errors():
            await asyncio.to_thread(self._forget_traffic, except_since_us)

    def _load(self) -> StoredRollout:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return NOTHING_STORED
        version = (status.st_mtime_ns, status.st_ino)
        if self._stored is None or version != self._version:
            try:
                content = self._path.read_bytes()
                rollout = decode(content)
            except InvalidRolloutError as error:
                raise self._unusable(error) from error
            serial = json.loads(content).get("serial", NOTHING_STORED.serial + 1)
            self._stored, self._version = StoredRollout(rollout, serial), version
        return self._stored

    def _unusable(self, error: InvalidRolloutError) -> UnusableStoreError | UnavailableError:
        text = f"{self._path} is {error}"
        if self._stored is None:
            return UnusableStoreError(text, field=str(self._path), reason="MALFORMED")
        return UnavailableError(text, reason=STORE_UNAVAILABLE)

    @property
    def _audit_path(self) -> Path:
        return self._path.with_name("audit.jsonl")

    def _append(self, act: Act) -> None:
        append_lines(self._audit_path, [act.record()])
        act.log()

    def _replace(self, rollout: Rollout, serial: int, act: Act | None) -> bool:
        make_directory(self._path.parent)
        with self._locked():
            if serial != self._load().serial:
                return False
            if act is not None:
                self._append(act)
            content = {**json.loads(encode(rollout)), "serial": serial + 1}
            write_json(self._path, content)
            self._load()
        return True

    @property
    def _traffic_path(self) -> Path:
        return self._path.with_name("traffic.json")

    def _traffic(self) -> dict[CountKey, int]:
        try:
            rows = json.loads(self._traffic_path.read_bytes())["counts"]
            return {
                CountKey(version, since_us, CountKind(kind), number): count
                for version, since_us, kind, number, count in rows
            }
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            raise UnavailableError(
                f"{self._traffic_path} holds no counts of this version", reason=STORE_UNAVAILABLE
            ) from error

    def _add_traffic(self, added: Mapping[CountKey, int]) -> None:
        make_directory(self._path.parent)
        with self._locked():
            counts = self._traffic()
            for key, count in added.items():
                counts[key] = counts.pop(key, 0) + count  # moves the key to the end
            newest = list(dict.fromkeys(key.version for key in reversed(counts)))
            kept = set(newest[:MAX_COUNTED_VERSIONS])
            self._write_traffic({key: n for key, n in counts.items() if key.version in kept})

    def _forget_traffic(self, except_since_us: int) -> None:
        make_directory(self._path.parent)
        with self._locked():
            counts, kept = self._traffic(), (ALL_TIME, except_since_us)
            if any(key.since_us not in kept for key in counts):
                self._write_traffic({key: n for key, n in counts.items() if key.since_us in kept})

    def _write_traffic(self, counts: Mapping[CountKey, int]) -> None:
        rows = [[*key, count] for key, count in counts.items()]
        write_json(self._traffic_path, {"counts": rows})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other writers; the lock of a killed process is released by the kernel."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"the rollout file cannot be read or written: {error.strerror}",
            reason=STORE_UNAVAILABLE,
        ) from error
