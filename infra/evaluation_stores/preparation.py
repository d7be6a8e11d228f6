"""Preparation of each store before its start.

The code is shared with the servers on loopback. Passwords come from the mounted secret.
"""

from collections.abc import Callable, Mapping

from infra.evaluation_stores.databases import keep_up
from infra.evaluation_stores.places import Place
from infra.servers.java import Java
from infra.servers.kafka import Kafka
from infra.servers.postgres import Postgres
from infra.servers.seaweedfs import SeaweedFS
from infra.servers.valkey import Valkey
from infra.supervision.child import Program

# One database for each service with a database.
DATABASES = ("gateway", "session", "generator", "feedback")
# Use the class data archive that is shipped with Java: the archive from infra/servers matches only
# the jars from which the archive was dumped.
CLASS_DATA = "-Xshare:auto"


def prepare_postgres(place: Place) -> Program:
    """Initialise a new folder, and create the role and databases."""
    place.take_secret("postgres-password", "password")
    postgres = Postgres(place.folder, place.ports["postgres"][0], place.listens_on)
    binaries = place.software.programs.postgres
    (program,) = postgres.prepare(binaries)
    keep_up(binaries, postgres, DATABASES)
    return program


def prepare_kafka(place: Place) -> Program:
    """Format a new folder for the broker."""
    kafka = Kafka(place.folder, place.ports["kafka"], place.listens_on, place.known_as)
    (program,) = kafka.prepare(Java(place.software.programs.jvm, place.software.jars, CLASS_DATA))
    return program


def prepare_s3(place: Place) -> Program:
    """Write the S3 credentials. The access key is constant."""
    place.take_secret("secret-key", "secret.key")
    (program,) = SeaweedFS(place.folder, place.ports["s3"], place.listens_on).prepare(
        place.software.programs.weed
    )
    return program


def prepare_valkey(place: Place) -> Program:
    """Write the configuration of Valkey."""
    place.take_secret("valkey-password", "password")
    valkey = Valkey(place.folder, place.ports["valkey"][0], place.listens_on)
    (program,) = valkey.prepare(place.software.programs.valkey)
    return program


PREPARE: Mapping[str, Callable[[Place], Program]] = {
    "postgres": prepare_postgres,
    "kafka": prepare_kafka,
    "s3": prepare_s3,
    "valkey": prepare_valkey,
}
