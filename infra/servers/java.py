"""Kafka's programs on the Java that is installed beside it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Brokers here live for minutes on few cores and little memory: the quick compiler and the plain
# collector start 2 s sooner.
OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    # Parts of the cache of classes that do not fit this run are told at length.
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
)


@dataclass(frozen=True)
class Java:
    """Kafka's jars on a Java.

    Args:
        class_data: the option that says which cache of loaded classes is used, or written.
    """

    binary: Path
    jars: Path
    class_data: str

    def command(
        self, program: str, arguments: Sequence[str], options: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """The jars by name, in order: the cache of classes only fits the very class path that it
        was made with.
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
