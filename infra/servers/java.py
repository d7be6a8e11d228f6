"""Java command lines of Kafka's programs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Brokers run for minutes on few cores and little memory: the C1 compiler and the serial collector
# reduce the start by 2 s.
OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    # Suppress long messages about parts of the class cache that do not match this run.
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
)


@dataclass(frozen=True)
class Java:
    """Kafka's jars and the Java that runs them.

    Args:
        class_data: option that selects the class cache to read or write.
    """

    binary: Path
    jars: Path
    class_data: str

    def command(
        self, program: str, arguments: Sequence[str], options: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """Return a command line with the jars sorted by name.

        The class cache requires the class path of its creation.
        """
        path = os.pathsep.join(str(jar) for jar in sorted(self.jars.glob("*.jar")))
        return (
            str(self.binary),
            *OPTIONS,
            self.class_data,
            *options,
            "-cp",
            path,
            program,
            *arguments,
        )
