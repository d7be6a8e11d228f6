"""The rollout on disk, for one generator alone: one JSON file, replaced whole, synced before
anybody acts on it.
"""

import asyncio
import os
from pathlib import Path

from services.chassis.errors import UnavailableError
from services.generator.record import NotARolloutError, decode, encode
from services.generator.rollout import Rollout
from services.generator.traffic import NOTHING_STORED, STORE_AWAY, Stored, UnusableStoreError


class RolloutFile:
    """See `traffic.RolloutStore`. Nobody else writes the file, so it is read once and its serial
    number is counted here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored: Stored | None = None

    async def load(self) -> Stored:
        """See `traffic.RolloutStore`. Raises: UnusableStoreError: it is not understood, and a fresh
        start never overwrites it.
        """
        if self._stored is None:
            self._stored = await asyncio.to_thread(self._read)
        return self._stored

    async def replace(self, rollout: Rollout, serial: int) -> bool:
        """See `traffic.RolloutStore`. After a crash the file is the old one or the new one."""
        if serial != (await self.load()).serial:
            return False
        try:
            await asyncio.to_thread(self._write, encode(rollout))
        except OSError as error:
            raise UnavailableError(
                "the rollout file cannot be written", reason=STORE_AWAY
            ) from error
        self._stored = Stored(rollout, serial + 1)
        return True

    def _read(self) -> Stored:
        try:
            return Stored(decode(self._path.read_bytes()), NOTHING_STORED.serial + 1)
        except FileNotFoundError:
            return NOTHING_STORED
        except NotARolloutError as error:
            raise UnusableStoreError(
                f"{self._path} is {error}", field=str(self._path), reason="MALFORMED"
            ) from error

    def _write(self, text: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
