"""Preparation of each store before its start.

The code is shared with the servers on loopback. Passwords come from the mounted secret.
"""

from collections.abc import Callable, Mapping

from infra.machine.evaluation_stores.databases import ensure_databases
from infra.machine.evaluation_stores.layout import StoreLayout
from infra.machine.servers.kafka import Java, Kafka
from infra.machine.servers.postgres import Postgres
from infra.machine.servers.seaweedfs import SeaweedFS
from infra.machine.servers.valkey import Valkey
from infra.run.supervision.child import Program
from infra.service_table import service_table

# Use the class data archive that is shipped with Java: the archive from infra/machine/servers
# matches only the jars from which the archive was dumped.
CLASS_DATA = "-Xshare:auto"


def prepare_postgres(layout: StoreLayout) -> Program:
    """Initialise a new folder, and create the role and databases."""
    layout.copy_secret("postgres-password", "password")
    postgres = Postgres(layout.folder, layout.ports["postgres"][0], layout.listens_on)
    binaries = layout.software.programs.postgres
    (program,) = postgres.prepare(binaries)
    ensure_databases(binaries, postgres, service_table().databases)
    return program


def prepare_kafka(layout: StoreLayout) -> Program:
    """Format a new folder for the broker."""
    kafka = Kafka(layout.folder, layout.ports["kafka"], layout.listens_on, layout.known_as)
    (program,) = kafka.prepare(Java(layout.software.programs.jvm, layout.software.jars, CLASS_DATA))
    return program


def prepare_s3(layout: StoreLayout) -> Program:
    """Write the S3 credentials. The access key is constant."""
    layout.copy_secret("secret-key", "secret.key")
    (program,) = SeaweedFS(layout.folder, layout.ports["s3"], layout.listens_on).prepare(
        layout.software.programs.weed
    )
    return program


def prepare_valkey(layout: StoreLayout) -> Program:
    """Write the configuration of Valkey."""
    layout.copy_secret("valkey-password", "password")
    valkey = Valkey(layout.folder, layout.ports["valkey"][0], layout.listens_on)
    (program,) = valkey.prepare(layout.software.programs.valkey)
    return program


PREPARE: Mapping[str, Callable[[StoreLayout], Program]] = {
    "postgres": prepare_postgres,
    "kafka": prepare_kafka,
    "s3": prepare_s3,
    "valkey": prepare_valkey,
}
