"""Where a store of an evaluation is: its volume, its secrets, its programs, its ports. The chart
names the same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.servers.binaries import Programs

DATA, SECRETS = "/data", "/secrets"
# Of each door, and for Kafka and S3 those behind it, in the order that infra/servers wants.
PORTS: Mapping[str, tuple[int, ...]] = {
    "postgres": (5432,),
    "kafka": (9092, 9093),
    "s3": (8333, 9333, 8080, 8888, 18333, 19333, 18080, 18888),
    "valkey": (6379,),
}


@dataclass(frozen=True)
class Software:
    """What the servers are made of."""

    programs: Programs
    jars: Path


# As infra/images puts them.
IMAGE = Software(Programs(Path("/app/site")), Path("/app/jars"))


@dataclass(frozen=True)
class Place:
    """One store's.

    Args:
        secrets: a folder with a file a secret; what stands there counts at every start.
        known_as: the host that clients are told to come to.
    """

    folder: Path
    secrets: Path
    software: Software
    listens_on: str
    known_as: str
    ports: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: PORTS)

    def take_secret(self, name: str, file: str) -> None:
        """Into the folder, readable by its owner alone, where the server expects it."""
        taken = self.folder / file
        taken.touch(mode=0o600)
        taken.write_text((self.secrets / name).read_text().strip())
