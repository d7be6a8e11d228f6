"""SQL statements: compilation for Postgres, and filters by owner."""

import pytest
from sqlalchemy import make_url
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.expression import Delete, Executable, Insert, Select, Update

from services.session.store import tables
from services.session.store.tables import metadata

STATEMENTS = {name: value for name, value in vars(tables).items() if isinstance(value, Executable)}
POSTGRES = make_url("postgresql://").get_dialect()()
WITHOUT_OWNER = {
    "REMOVE_TURN_RECORDS",
    "WAITING_RECORDS",
    "COUNT_RECORDS",
    "REMOVE_RELAYED",
    "REFUSE_RECORD",
    "REFUSED_RECORDS",
    "PUBLISH_REFUSED",
}
WITHOUT_OWNER |= {"LEASE", "TAKE_LEASE", "RELEASE_LEASE"}
# The number of conversations of all users of a tenant.
OF_A_TENANT = {"COUNT_TENANT_CONVERSATIONS"}


def in_postgres(statement: Executable) -> str:
    assert isinstance(statement, Select | Insert | Update | Delete)
    return str(statement.compile(dialect=POSTGRES))


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_statement_compiles_for_postgres(name: str) -> None:
    assert in_postgres(STATEMENTS[name])


@pytest.mark.parametrize(
    "name",
    sorted(
        n for n, s in STATEMENTS.items() if not isinstance(s, Insert) and n not in WITHOUT_OWNER
    ),
)
def test_statement_on_user_rows_filters_by_owner(name: str) -> None:
    text = in_postgres(STATEMENTS[name])
    assert "owner_tenant" in text
    assert ("owner_user" in text) == (name not in OF_A_TENANT)


def test_statements_that_precede_a_change_lock_their_rows() -> None:
    for name in (
        "LOCKED_CONVERSATION",
        "LOCKED_CONVERSATION_OF_MESSAGE",
        "LOCKED_CONVERSATIONS",
        "LEASE",
    ):
        assert in_postgres(STATEMENTS[name]).endswith("FOR UPDATE")


def test_schema_compiles_for_postgres() -> None:
    made = [str(CreateTable(table).compile(dialect=POSTGRES)) for table in metadata.sorted_tables]
    assert len(made) == 5
    assert "BIGSERIAL" in made[[table.name for table in metadata.sorted_tables].index("outbox")]
