"""Lists of domains and URLs, stored as sorted hashes that all processes share by mapped memory.

The category `adult` comes with the package of locks/url_lists.txt: the list of UT1 (Université
Toulouse Capitole, CC BY-SA 4.0) with 4.56 million domains, and word lists. Further categories are
folders of the operator in the layout of UT1's archive: files `domains` and `urls` with an entry per
line.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import re
import shutil
import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.artifacts.manifest import hash_file
from training.corpus.document import CorpusError
from training.data.packages import LOCKS, DataError, home_of, installed

ADULT = "adult"
LOCK = LOCKS / "url_lists.txt"
ASSETS = Path("datatrove", "assets")
ARCHIVE = "url_filterblacklistsv0_3_0.tar.gz"
WORD_LISTS = ("banned_words", "soft_banned_words", "banned_subwords")
KINDS = ("domains", "urls")
FORMAT = 1  # of the files; part of the folder's name

# With a path, a user or a port; IPv6 addresses have several colons.
_NO_DOMAIN = re.compile(r"[\s/?#@]|^[^:]*:\d*$")


@dataclass(frozen=True)
class UrlLists:
    """Folders with a folder for each category with the files `domains.u64` and `urls.u64`.

    Attributes:
        folders: a category may be in several of them; then the lists of all count.
        words: word lists of the packaged category `adult` by name; empty without it.
    """

    folders: tuple[Path, ...]
    words: dict[str, frozenset[str]]

    def open(self, category: str, kind: str) -> list[HashSet]:
        """Open the domains or the URLs of a category.

        Raises:
            CorpusError: the category does not exist.
        """
        files = [folder / category / f"{kind}.u64" for folder in self.folders]
        if found := [HashSet(file) for file in files if file.exists()]:
            return found
        names = sorted({ADULT, *(one.name for folder in self.folders for one in folder.iterdir())})
        raise CorpusError(
            f"url_categories: {category!r} is unknown; allowed are {', '.join(names)}",
            field="url_categories",
            reason="UNKNOWN",
            limit=", ".join(names),
        )


class HashSet:
    """A set of strings as sorted 64-bit hashes in a file.

    The probability that a string outside of a set of n is found is n / 2**64.
    """

    def __init__(self, file: Path) -> None:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._hashes = memoryview(mapped).cast("Q")

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, entry: str) -> bool:
        value = hash_of(entry)
        place = bisect_left(self._hashes, value)
        return place < len(self._hashes) and self._hashes[place] == value


def hash_of(entry: str) -> int:
    """Return the 64-bit hash of an entry."""
    digest = hashlib.blake2b(entry.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def write_hashes(entries: Iterable[str], file: Path) -> int:
    """Write the sorted hashes of distinct entries and return their number.

    Spaces around an entry, empty lines and lines that begin with "#" are left out.
    """
    hashes = array("Q")
    for line in entries:
        if (entry := line.strip()) and line[0] != "#":
            hashes.append(hash_of(entry))
    ordered = np.unique(np.frombuffer(hashes, np.uint64)) if hashes else np.empty(0, np.uint64)
    file.write_bytes(ordered.astype("<u8").tobytes())
    return len(ordered)


def open_lists(categories: Sequence[str], own: Path | None = None) -> UrlLists:
    """Return the lists for some categories; the package is installed only for `adult`.

    Args:
        own: folder from `hashed_lists`.
    """
    folders = () if own is None else (own,)
    if ADULT not in categories:
        return UrlLists(folders, {})
    packaged = packaged_lists()
    return UrlLists((*packaged.folders, *folders), packaged.words)


def packaged_lists() -> UrlLists:
    """Return the category `adult`; install the package and hash its lists if missing.

    Raises:
        DataError: the package could not be installed, or the hashes are missing in a read-only
            cache.
    """
    home = home_of(LOCK)
    folder = home.with_name(f"{home.name}-hashes-{FORMAT}")
    assets = installed(LOCK) / ASSETS
    if not folder.exists():
        if not os.access(folder.parent, os.W_OK):
            raise DataError(
                f"{folder.name}: is missing in {folder.parent}, which is read-only; copy it",
                field="url_categories",
                reason="MISSING",
            )
        partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        (partial / ADULT).mkdir(parents=True)
        with tarfile.open(assets / ARCHIVE, "r:gz") as archive:
            for kind in KINDS:
                member = archive.extractfile(kind)
                if member is None:
                    raise CorpusError(f"{ARCHIVE} has no file {kind}", field="url.lists")
                lines = io.TextIOWrapper(member, encoding="utf-8")
                write_hashes(lines, partial / ADULT / f"{kind}.u64")
        _publish(partial, folder)
    return UrlLists((folder,), {name: _words(assets / f"{name}.txt") for name in WORD_LISTS})


def hashed_lists(source: Path, target: Path) -> Path:
    """Return the folder in `target` with the hashes of an operator's lists; write it if missing.

    Its name is a hash of the lists. Folders of earlier lists in `target` are deleted.

    Args:
        source: has a folder for each category with a file `domains`, a file `urls`, or both.

    Raises:
        CorpusError: the source has no category, or an entry of `domains` is no domain.
    """
    files = sorted(file for file in source.glob("*/*") if file.name in KINDS and file.is_file())
    if not files:
        raise CorpusError(
            f"url_lists: {source} has no folder with a file `domains` or `urls`",
            field="url_lists",
            reason="EMPTY" if source.is_dir() else "MISSING",
        )
    states = [[file.relative_to(source).as_posix(), hash_file(file)] for file in files]
    folder = target / hashlib.sha256(json.dumps([FORMAT, states]).encode()).hexdigest()[:32]
    if folder.exists():
        return folder
    shutil.rmtree(target, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}.partial")
    for category in {file.parent for file in files}:
        (partial / category.name).mkdir(parents=True)
        for kind in KINDS:
            file = category / kind
            entries = _entries(file) if file in files else iter(())
            write_hashes(entries, partial / category.name / f"{kind}.u64")
    partial.rename(folder)
    return folder


def _entries(file: Path) -> Iterator[str]:
    """Yield the lines of a list, domains in lower case.

    Raises:
        CorpusError: a line of `domains` is no domain, so that it would match nothing.
    """
    with file.open(encoding="utf-8", errors="replace") as lines:
        if file.name != "domains":
            yield from lines
        for number, line in enumerate(lines, 1):
            entry = line.strip().lower()
            if not entry.startswith("#") and _NO_DOMAIN.search(entry):
                place = f"{file.parent.name}/{file.name}:{number}"
                raise CorpusError(
                    f"url_lists: {place} is no domain; `urls` is for URLs",
                    field="url_lists",
                    reason="INVALID",
                    limit="a domain or an address a line",
                )
            yield entry


def _publish(partial: Path, folder: Path) -> None:
    """Rename a complete folder; another process may have been first."""
    try:
        partial.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(partial)


def _words(file: Path) -> frozenset[str]:
    """Return the words of a list in lower case, without characters other than ASCII letters and
    digits. Lines that begin with "#" are left out.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    words = (
        "".join(one for one in line if one.isascii() and one.isalnum()).lower()
        for line in lines
        if not line.startswith("#")
    )
    return frozenset(word for word in words if word)
