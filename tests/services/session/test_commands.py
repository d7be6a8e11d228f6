"""Commands of operators on the records that the feedback service refused."""

from argparse import ArgumentParser

import pytest

from services.session.commands import add_commands, run_command
from services.session.store.outbox import Lease, Outbox
from services.session.store.schema import open_database
from services.session.store.tables import ADD_RECORDS
from tests.services.session.service import LIMITS, Home, session_settings


async def run(home: Home, *words: str) -> int:
    parser = ArgumentParser()
    add_commands(parser)
    return await run_command(parser.parse_args(words), session_settings(home))


async def add_refused_records(home: Home) -> None:
    """Store a waiting record between a refused turn and a refused erasure."""
    rows = [
        {"conversation_id": "c", "refused": refused, "erased": erased, "payload": b"secret"}
        for refused, erased in ((True, False), (False, False), (True, True))
    ]
    async with open_database(home.database_url, LIMITS) as database:
        await database.write(lambda connection: connection.execute(ADD_RECORDS, rows))


async def waiting(home: Home) -> int:
    async with open_database(home.database_url, LIMITS) as database:
        return (await Outbox(database, Lease(1.0)).claim()).waiting


async def test_refused_records_are_listed_and_published_on_request(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    await add_refused_records(home)
    assert await run(home, "refused") == 0
    assert capsys.readouterr().out == "1 turn\n3 erasure\n2 records refused\n"
    assert await waiting(home) == 1
    assert await run(home, "refused", "--publish") == 0
    assert capsys.readouterr().out == "2 records are sent again\n"
    assert await waiting(home) == 3
    assert await run(home, "refused") == 0
    assert capsys.readouterr().out == "0 records refused\n"


async def test_migrate_may_be_repeated(home: Home) -> None:
    assert await run(home, "migrate") == 0
    assert await run(home, "migrate") == 0
