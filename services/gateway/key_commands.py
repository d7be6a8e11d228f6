"""`python -m services.gateway keys create|list|revoke`: the only place that ever prints a key."""

import argparse
import time
from datetime import UTC, datetime

from services.chassis.identity import Caller
from services.gateway.key_store import open_key_store
from services.gateway.keys import KeyStore, mint

MAX_COUNT = 10_000


def add_key_commands(parser: argparse.ArgumentParser, database_url: str) -> None:
    """Describe the commands."""
    parser.add_argument("--database", default=database_url, help="SQLAlchemy URL of the keys (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make keys and print them, once")
    create.add_argument("--user", required=True, help="whose key; with --count the users are USER-1, USER-2 …")
    create.add_argument("--tenant", default="default")
    create.add_argument("--count", type=int, default=1, help=f"how many users, 1 to {MAX_COUNT:,}")
    commands.add_parser("list", help="ids, users and times; never the keys")
    revoke = commands.add_parser("revoke", help="make a key worthless within seconds")
    revoke.add_argument("--id", required=True, help="as `list` shows it")


async def run_key_command(options: argparse.Namespace) -> int:
    """The exit status."""
    async with open_key_store(options.database) as store:
        match options.command:
            case "create":
                return await _create(store, options.tenant, options.user, options.count)
            case "list":
                return await _list(store)
            case _:
                return await _revoke(store, options.id)


async def _create(store: KeyStore, tenant: str, user: str, count: int) -> int:
    if not 1 <= count <= MAX_COUNT:
        print(f"--count must be 1 to {MAX_COUNT:,}")
        return 2
    users = [user] if count == 1 else [f"{user}-{number}" for number in range(1, count + 1)]
    try:
        minted = [mint(Caller(tenant, name)) for name in users]
    except ValueError as error:
        print(error)
        return 2
    for secret, key in minted:
        await store.add(key)
        print(secret)
    return 0


async def _list(store: KeyStore) -> int:
    for key in await store.list_keys():
        state = "works" if key.revoke_time is None else f"revoked {_time(key.revoke_time)}"
        print(f"{key.key_id}  {key.caller.key:<32}  made {_time(key.create_time)}  {state}")
    return 0


async def _revoke(store: KeyStore, key_id: str) -> int:
    if await store.revoke(key_id, time.time()):
        print("revoked")
        return 0
    print("there is no such key that works")
    return 1


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
