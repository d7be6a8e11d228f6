"""Power loss without a disk of its own: states of a folder that a crash may leave.

A process runs with tests/faults/reported_syncs.c, so that each sync is seen before it returns. The
recorder keeps two views of the folder. The *visible* one is what the process wrote. The *durable*
one has the content of a file as of its last sync, and the names in a folder as of the sync of this
folder. A power loss leaves something between the two; `states` returns five mixtures at each cut.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

SOURCE = Path(__file__).with_name("reported_syncs.c")


class Left(StrEnum):
    """Part of the unsynced changes that a power loss leaves."""

    NOTHING = "neither names nor contents"
    NAMES = "names, not contents"
    ZEROS = "names and sizes, zeros for contents"
    HALF = "names, half of each content"
    ALL = "names and contents"


@dataclass(frozen=True)
class View:
    """A folder tree: names by folder, and contents of files, both by inode."""

    names: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    contents: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """A moment at which the power may fail.

    Args:
        receipts: those that the process had given before, by number of the step.
    """

    durable: View
    visible: View
    receipts: Mapping[int, str]


def build_library(folder: Path) -> Path:
    """Compile the preloaded library.

    Raises:
        RuntimeError: there is no C compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError("the power loss tests need gcc or another C compiler as cc")
    library = folder / "reported_syncs.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)
    return library


class Recorder:
    """Records a cut before and after each sync of processes in `root`."""

    def __init__(self, root: Path, address: Path) -> None:
        self._root, self.receipts = root, dict[int, str]()
        self.cuts: list[Cut] = []
        # Open descriptors keep the kernel from giving an inode's number to another file.
        self._held: dict[int, int] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(address))
        self._socket.listen(64)
        self._names: dict[int, Mapping[str, int]] = {}
        self._contents: dict[int, bytes] = {}
        self._names[self._number(root)] = self._entries(root)
        self.error: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answer reports during the block."""
        thread = threading.Thread(target=self._serve)
        thread.start()
        try:
            yield
        finally:
            self._socket.shutdown(socket.SHUT_RDWR)
            thread.join()
            self._socket.close()
            for descriptor in self._held.values():
                os.close(descriptor)
        if self.error:
            raise self.error

    def cut(self) -> None:
        """Record the present moment."""
        durable = View(dict(self._names), dict(self._contents))
        self.cuts.append(Cut(durable, self._visible(), MappingProxyType(dict(self.receipts))))

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    process, descriptor = connection.makefile().readline().split()
                    self._sync(Path(f"/proc/{process}/fd/{descriptor}"))
                except BaseException as error:  # noqa: BLE001 - raised in the test's thread
                    self.error = error
                    return
                connection.sendall(b".")

    def _sync(self, link: Path) -> None:
        path = Path(str(link.readlink()).removesuffix(" (deleted)"))
        if not path.is_relative_to(self._root):
            return
        self.cut()
        number = self._number(link)
        if link.is_dir():
            self._names[number] = self._entries(link)
        else:
            self._contents[number] = link.read_bytes()
        self.cut()

    def _entries(self, folder: Path) -> dict[str, int]:
        return {path.name: self._number(path) for path in folder.iterdir() if not path.is_symlink()}

    def _number(self, path: Path) -> int:
        number = path.stat().st_ino
        if number not in self._held:
            self._held[number] = os.open(path, os.O_PATH)
        return number

    def _visible(self) -> View:
        names, contents = dict[int, Mapping[str, int]](), dict[int, bytes]()
        for folder, _, _ in os.walk(self._root):
            entries = self._entries(Path(folder))
            names[self._number(Path(folder))] = entries
            for name, number in entries.items():
                path = Path(folder, name)
                if path.is_file():
                    contents[number] = path.read_bytes()
        return View(names, contents)


def states(cut: Cut, root: int) -> Iterator[tuple[Left, Mapping[str, bytes | None]]]:
    """Yield the different mixtures of a cut: contents by path, None for folders.

    Args:
        root: inode of the folder.
    """
    for left in Left:
        view = cut.durable if left is Left.NOTHING else cut.visible
        folders = cut.durable.names.keys() | cut.visible.names.keys()
        state: dict[str, bytes | None] = {}
        pending = [("", root)]
        while pending:
            prefix, number = pending.pop()
            for name, child in view.names.get(number, {}).items():
                path = f"{prefix}{name}"
                if child in folders:
                    state[path] = None
                    pending.append((f"{path}/", child))
                else:
                    state[path] = _content(cut, child, left)
        yield left, state


def _content(cut: Cut, number: int, left: Left) -> bytes:
    before, after = cut.durable.contents.get(number, b""), cut.visible.contents.get(number, b"")
    if left in (Left.NOTHING, Left.NAMES):
        return before
    if left is Left.ALL or before == after:
        return after
    if left is Left.ZEROS:
        return before[: len(after)] + bytes(max(0, len(after) - len(before)))
    shorter = min(len(before), len(after))
    same = next((n for n in range(shorter) if before[n] != after[n]), shorter)
    end = same + (len(after) - same) // 2
    return after[:end] + before[end:]


def restore(root: Path, state: Mapping[str, bytes | None]) -> None:
    """Replace the content of the folder."""
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, content in sorted(state.items()):
        path = root / name
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content)
