"""The base layer contains what services import, and no libraries of interactive modules."""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import cast

import pytest

from infra.machine.images import interpreter
from infra.machine.images.layer import LayerWriter

# GPL without an exception, and libraries of windows and of NIS.
UNWANTED = ("libreadline", "libgdbm", "libtk", "libtcl", "libX", "libxcb", "libkrb5", "libnsl")


class Names:
    """Names of the files that a layer would contain."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def data(self, name: str, content: bytes, mode: int = 0) -> None:
        self.found.add(name)

    def folder(self, name: str, mode: int = 0) -> None:
        self.found.add(name)

    def link(self, name: str, target: str) -> None:
        self.found.add(name)

    def file(self, source: Path, name: str) -> None:
        self.found.add(name)

    def tree(self, source: Path, name: str, omits: Callable[[PurePosixPath], bool]) -> None:
        for folder, folders, files in os.walk(source):
            here = PurePosixPath(Path(folder).relative_to(source))
            folders[:] = [each for each in folders if not omits(here / each)]
            self.found.update(f"{name}/{here / each}" for each in files if not omits(here / each))


@pytest.fixture(scope="module")
def names() -> set[str]:
    writer = Names()
    interpreter.write_interpreter(cast(LayerWriter, writer))
    return {PurePosixPath(name).name for name in writer.found}


def test_libraries_of_omitted_modules_are_absent(names: set[str]) -> None:
    assert [name for name in names if name.startswith(UNWANTED)] == []
    modules = {name.split(".")[0] for name in names if ".cpython-" in name}
    assert not modules & {"readline", "_tkinter", "nis", "_testcapi", "xxlimited"}


def test_modules_and_libraries_of_services_are_present(names: set[str]) -> None:
    modules = {name.split(".")[0] for name in names if ".cpython-" in name}
    assert {"_ssl", "_sqlite3", "_lzma", "_bz2", "_uuid", "_ctypes", "zlib"} <= modules
    assert {"libssl.so.3", "libsqlite3.so.0", "libstdc++.so.6", "librt.so.1"} <= names
