"""API keys and their stores for tests."""

import argparse
from dataclasses import replace
from pathlib import Path

from services.chassis.errors import UnauthenticatedError, UnavailableError
from services.chassis.identity import Caller
from services.gateway.identity.authentication import ApiKeys, StoredKey
from services.gateway.identity.key_commands import add_key_commands, run_key_command

ADA = Caller("acme", "ada")


class CountingStore:
    """Key store in a dictionary, with counters."""

    def __init__(self, *keys: StoredKey) -> None:
        self.keys = {key.digest: key for key in keys}
        self.lookups = 0
        self.noted: list[str] = []
        self.away = False

    async def find(self, digest: bytes) -> StoredKey | None:
        self.lookups += 1
        return self.keys.get(digest)

    async def recent_digests(self, most: int) -> list[bytes]:
        return list(self.keys)[:most]

    async def record_use(self, key_id: str, use_time: float) -> None:
        if self.away:
            raise UnavailableError("unavailable on request")
        self.noted.append(key_id)
        self.keys = {
            digest: replace(key, last_use_time=use_time) if key.key_id == key_id else key
            for digest, key in self.keys.items()
        }


def url(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory}/keys.db"


async def run_at(database_url: str, *words: str) -> int:
    parser = argparse.ArgumentParser()
    add_key_commands(parser, database_url)
    return await run_key_command(parser.parse_args(words))


async def reason_of(keys: ApiKeys, secret: str) -> str:
    """Return the reason of a rejection, or an empty string for a valid key."""
    try:
        await keys.authenticate(secret)
    except UnauthenticatedError as error:
        return error.reason
    return ""
