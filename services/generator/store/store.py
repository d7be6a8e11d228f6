"""The rollout on disk, for a single generator.

One JSON file, replaced atomically and synced before a change takes effect.
"""

import asyncio
import os
from pathlib import Path

from services.chassis.errors import UnavailableError
from services.generator.rollout.current_rollout import (
    NOTHING_STORED,
    STORE_UNAVAILABLE,
    StoredRollout,
    UnusableStoreError,
)
from services.generator.rollout.rollout import InvalidRolloutError, Rollout, decode, encode


class RolloutFile:
    """The rollout in a file; implements `current_rollout.RolloutStore`.

    The file has no other writer, so it is read once and the serial number is counted in memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored: StoredRollout | None = None

    async def load(self) -> StoredRollout:
        """Implement `RolloutStore.load`.

        Raises:
            UnusableStoreError: the content cannot be decoded. The file is never overwritten in that
                case.
        """
        if self._stored is None:
            self._stored = await asyncio.to_thread(self._read)
        return self._stored

    async def replace(self, rollout: Rollout, serial: int) -> bool:
        """Implement `RolloutStore.replace`; after a crash the file is the old or the new one."""
        if serial != (await self.load()).serial:
            return False
        try:
            await asyncio.to_thread(self._write, encode(rollout))
        except OSError as error:
            raise UnavailableError(
                "the rollout file cannot be written", reason=STORE_UNAVAILABLE
            ) from error
        self._stored = StoredRollout(rollout, serial + 1)
        return True

    def _read(self) -> StoredRollout:
        try:
            return StoredRollout(decode(self._path.read_bytes()), NOTHING_STORED.serial + 1)
        except FileNotFoundError:
            return NOTHING_STORED
        except InvalidRolloutError as error:
            raise UnusableStoreError(
                f"{self._path} is {error}", field=str(self._path), reason="MALFORMED"
            ) from error

    def _write(self, text: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        # The rename itself is durable only after a sync of the directory.
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
