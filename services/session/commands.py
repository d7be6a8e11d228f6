"""Commands of operators: `migrate`, and `refused` for turn records that were set aside."""

from argparse import ArgumentParser, Namespace

from services.session.settings import SessionSettings
from services.session.store.database import DatabaseLimits
from services.session.store.outbox import Lease, Outbox
from services.session.store.schema import migrate, open_database


def add_commands(parser: ArgumentParser) -> None:
    """Add the subcommands to the parser."""
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="run the service (default)")
    commands.add_parser("migrate", help="migrate the database to the schema of this version")
    refused = commands.add_parser(
        "refused", help="list the turn records that the feedback service refused"
    )
    refused.add_argument(
        "--publish", action="store_true", help="send all of them again, after their cause is mended"
    )


async def run_command(options: Namespace, settings: SessionSettings) -> int:
    """Run `migrate` or `refused` and return the exit status.

    Raises:
        SchemaRevisionError: the database needs a migration.
        UnavailableError: the database is unavailable.
    """
    if options.command == "migrate":
        await migrate(settings.database_url)
        return 0
    async with open_database(settings.database_url, database_limits(settings)) as database:
        outbox = Outbox(database, Lease(settings.relay_lease_seconds))
        if options.publish:
            print(f"{await outbox.publish_refused()} records are sent again")
            return 0
        records = await outbox.refused()
    for record in records:
        print(f"{record.id} {'erasure' if record.is_erasure else 'turn'}")
    print(f"{len(records)} records refused")
    return 0


def database_limits(settings: SessionSettings) -> DatabaseLimits:
    """Return the database limits of the settings, for the commands and the service."""
    return DatabaseLimits(
        settings.connections,
        settings.database_pool_seconds,
        settings.database_lock_seconds,
        settings.database_statement_seconds,
        settings.database_work_seconds,
    )
