"""TLS to Postgres: each service verifies the certificate if its database URL requests it."""

import asyncio
import ipaddress
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pg8000.dbapi
import pytest
from cryptography import x509
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from infra.machine.certificates.authority import Authority
from services.feedback.settings import FeedbackSettings
from services.feedback.store.database import connect
from tests.servers import Database, PostgresServer

DRIVERS = {"gateway": "asyncpg", "session": "asyncpg", "generator": "asyncpg", "feedback": "pg8000"}
NEEDED = {
    "session": {"PRINCIPAL_KEY": "p" * 16, "TOKENIZER_FILE": "models/nano/tokenizer.json"},
    "feedback": {"PRINCIPAL_KEY": "p" * 16, "MASTER_KEY": "ab" * 32},
}
# The first that a client sends which wants TLS (PostgreSQL's protocol, "SSLRequest").
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
VERIFIED, REFUSED = (
    "ssl=verify-full",
    re.compile("certificate verify failed|SSLCertVerificationError"),
)


class Authorities:
    """Two files: who has signed the server's certificate, and somebody else."""

    def __init__(self, folder: Path) -> None:
        self.own, self.other = folder / "own.pem", folder / "other.pem"
        authority = Authority.create(1)
        self.own.write_bytes(authority.pair.certificate)
        self.other.write_bytes(Authority.create(1).pair.certificate)
        server = authority.sign(
            x509.Name([]), [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], 1
        )
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self.certificate.write_bytes(server.certificate)
        self.key.touch(0o600)
        self.key.write_bytes(server.key)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    return Authorities(tmp_path_factory.mktemp("authorities"))


@asynccontextmanager
async def only_over_tls(authorities: Authorities, port: int) -> AsyncIterator[int]:
    """Yield a port with TLS in front of a Postgres that was built without TLS.

    The proxy requests TLS as Postgres does and closes plaintext connections.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authorities.certificate, authorities.key)
    ways: set[asyncio.Task[Any]] = set()

    async def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                behind, to_it = await asyncio.open_connection("127.0.0.1", port)
                ways.update(
                    asyncio.create_task(pass_on(*way))
                    for way in ((reader, to_it), (behind, writer))
                )
                return
        writer.close()

    door = await asyncio.start_server(let_in, "127.0.0.1", 0)
    async with door:
        yield door.sockets[0].getsockname()[1]
    await asyncio.gather(*ways)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


def migrate(
    service: str, database: Mapping[str, str], believed: Path
) -> subprocess.CompletedProcess[str]:
    """As a pod's first container does it, with the settings of its database."""
    settings = {**NEEDED.get(service, {}), **database}
    said = {f"TW_{service.upper()}_{name}": value for name, value in settings.items()}
    trust = {"SSL_CERT_FILE": str(believed), "PGSSLROOTCERT": str(believed)}
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", "migrate"],
        env={**os.environ, **said, **trust},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# One service of each driver; the others are long tests.
@pytest.mark.parametrize(
    "service",
    [
        "gateway",
        "feedback",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("session", "generator")),
    ],
)
async def test_the_certificate_is_compared(
    service: str, postgres: PostgresServer, authorities: Authorities
) -> None:
    database = postgres.database()
    async with only_over_tls(authorities, database.port) as port:
        url = f"{replace(database, port=port).url(f'postgresql+{DRIVERS[service]}')}?{VERIFIED}"
        refused = await asyncio.to_thread(
            migrate, service, {"DATABASE_URL": url}, authorities.other
        )
        assert refused.returncode
        assert REFUSED.search(refused.stderr)
        assert database.password not in refused.stdout + refused.stderr
        parts = role_with_special_characters(database) | {
            "DATABASE_HOST": "127.0.0.1",
            "DATABASE_PORT": str(port),
            "DATABASE_SSL_MODE": "verify-full",
        }
        done = await asyncio.to_thread(migrate, service, parts, authorities.own)
        assert done.returncode == 0, done.stderr[-500:]


def role_with_special_characters(database: Database) -> dict[str, str]:
    """Create an owner of the database, and return the settings of its name and password."""
    name, password = f"o@{database.name}", "p/@:?#%41 +&é"
    connection = pg8000.dbapi.connect(
        database.user, database.host, database.name, database.port, database.password
    )
    with closing(connection):
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"""CREATE ROLE "{name}" LOGIN PASSWORD '{password}'""")
        cursor.execute(f"""ALTER DATABASE {database.name} OWNER TO "{name}" """)
    return {
        "DATABASE_NAME": database.name,
        "DATABASE_USERNAME": name,
        "DATABASE_PASSWORD": password,
    }


async def test_modes_of_feedback_verify_as_their_names_say(
    postgres: PostgresServer, authorities: Authorities, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgres.database()

    def accepted(mode: str, believed: Path, host: str = "127.0.0.1") -> bool:
        monkeypatch.setenv("PGSSLROOTCERT", str(believed))
        place = replace(database, port=port, host=host)
        engine = connect(f"{place.url('postgresql+pg8000')}?ssl={mode}")
        try:
            with engine.connect():
                return True
        except (SQLAlchemyError, ssl.SSLError) as error:
            assert REFUSED.search(str(error))
            return False
        finally:
            engine.dispose()

    async with only_over_tls(authorities, database.port) as port:
        found = {
            mode: [
                await asyncio.to_thread(accepted, mode, authorities.other),
                await asyncio.to_thread(accepted, mode, authorities.own, "localhost"),
                await asyncio.to_thread(accepted, mode, authorities.own),
            ]
            for mode in ("require", "verify-ca", "verify-full")
        }
    # Another authority, another name, both right.
    assert found == {
        "require": [True, True, True],
        "verify-ca": [False, True, True],
        "verify-full": [False, False, True],
    }


def test_another_word_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        FeedbackSettings(
            database_url="postgresql+pg8000://u:p@db/x?ssl=prefer",
            principal_key="p" * 16,
            master_key="ab" * 32,
        )
    assert [(wrong["loc"], wrong["type"]) for wrong in caught.value.errors()] == [
        (("database_url",), "string_pattern_mismatch")
    ]
