"""Layout of an evaluation store: volume, secrets, programs and ports.

The chart uses the same paths and ports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.machine.servers.binaries import ProgramPaths

DATA, SECRETS = "/data", "/secrets"
# Client ports first; Kafka and S3 add their internal ports, in the order expected by
# infra/machine/servers.
PORTS: Mapping[str, tuple[int, ...]] = {
    "postgres": (5432,),
    "kafka": (9092, 9093),
    "s3": (8333, 9333, 8080, 8888, 18333, 19333, 18080, 18888),
    "valkey": (6379,),
}


@dataclass(frozen=True)
class Software:
    """Installed programs and jars of the servers."""

    programs: ProgramPaths
    jars: Path


# Paths inside the image that infra/machine/images builds.
IMAGE = Software(ProgramPaths(Path("/app/site-packages")), Path("/app/jars"))


@dataclass(frozen=True)
class StoreLayout:
    """Layout of a single store.

    Args:
        secrets: folder with a file per secret, read at every start.
        known_as: the host name advertised to clients.
    """

    folder: Path
    secrets: Path
    software: Software
    listens_on: str
    known_as: str
    ports: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: PORTS)

    def copy_secret(self, name: str, file: str) -> None:
        """Copy a secret into the folder of the server, readable by its owner only."""
        taken = self.folder / file
        taken.touch(mode=0o600)
        taken.write_text((self.secrets / name).read_text().strip())
