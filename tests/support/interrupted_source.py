"""Source of an import that stops at a file."""

from pathlib import Path

from training.model_store.source import DirectorySource, SourceFile


class InterruptedSource(DirectorySource):
    """A directory whose file `broken` cannot be read; records the fetched files."""

    def __init__(self, directory: Path, broken: str = "") -> None:
        super().__init__(directory)
        self.broken, self.fetched = broken, list[str]()

    def fetch(self, file: SourceFile, into: Path) -> None:
        if file.name == self.broken:
            raise KeyboardInterrupt
        self.fetched.append(file.name)
        super().fetch(file, into)
