"""What each store needs before it starts, by the same code that runs it on loopback; passwords come
out of the mounted secret.
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

# One a service that keeps rows.
DATABASES = ("gateway", "session", "generator", "feedback")
# The classes that Java brings: the cache that infra/servers makes fits no copy of the jars.
CLASS_DATA = "-Xshare:auto"


def prepare_postgres(place: Place) -> Program:
    """A new folder is initialised; role and databases are as they should be at every start."""
    place.take_secret("postgres-password", "password")
    postgres = Postgres(place.folder, place.ports["postgres"][0], place.listens_on)
    binaries = place.software.programs.postgres
    (program,) = postgres.prepare(binaries)
    keep_up(binaries, postgres, DATABASES)
    return program


def prepare_kafka(place: Place) -> Program:
    """A new folder is formatted."""
    kafka = Kafka(place.folder, place.ports["kafka"], place.listens_on, place.known_as)
    (program,) = kafka.prepare(Java(place.software.programs.jvm, place.software.jars, CLASS_DATA))
    return program


def prepare_s3(place: Place) -> Program:
    """Who may do what is written anew. The access key is always the same one."""
    place.take_secret("secret-key", "secret.key")
    (program,) = SeaweedFS(place.folder, place.ports["s3"], place.listens_on).prepare(
        place.software.programs.weed
    )
    return program


def prepare_valkey(place: Place) -> Program:
    """Its settings are written anew."""
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
