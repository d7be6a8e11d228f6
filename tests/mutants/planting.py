"""Plant a deliberate defect in a copy of the code and find the test that fails."""

import multiprocessing
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Copied folders have no link to the original tree; the other folders are linked.
COPIED = ("training", "tests", "pyproject.toml")
PRELOADED = ["torch", "transformers", "pytest"]  # imports dominate the time of a short run
TIMEOUT_SECONDS = 1200
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """A replacement of code in a file.

    `before` occurs exactly once in the file and is replaced by `after`. `tests` are the suites that
    must fail, the most probable first. `equivalent` is the reason why no test can detect the
    mutant; empty: a test must.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    equivalent: str = ""


@dataclass(frozen=True)
class Verdict:
    """Result of a mutant; `caught_by` is the first failed test, empty if all passed."""

    mutant: Mutant
    caught_by: str

    @property
    def as_expected(self) -> bool:
        return bool(self.caught_by) != bool(self.mutant.equivalent)

    def text(self) -> str:
        if self.mutant.equivalent:
            text = (
                f"NOT EQUIVALENT, {self.caught_by}"
                if self.caught_by
                else f"equivalent: {self.mutant.equivalent}"
            )
        else:
            text = self.caught_by or "ESCAPED"
        return f"{self.mutant.name:<44} {text}"


class DoesNotApply(ValueError):
    """The code of a mutant has changed; the text names mutant and file."""


def mutated(mutant: Mutant, root: Path = ROOT) -> str:
    """Return the text of the mutant's file with the defect planted.

    Line breaks and trailing commas are ignored, so that the formatter may wrap the code.

    Raises:
        DoesNotApply: the file does not contain `before` exactly once.
    """
    text = (root / mutant.file).read_text()
    found = list(layout_pattern(mutant.before).finditer(text))
    if len(found) != 1:
        raise DoesNotApply(
            f"{mutant.name}: found {len(found)} times in {mutant.file}, not once:\n{mutant.before}"
        )
    return text[: found[0].start()] + mutant.after + text[found[0].end() :]


def layout_pattern(code: str) -> re.Pattern[str]:
    """Return a pattern for this code in any line layout; its first indentation counts."""
    indentation, body = re.fullmatch(r"(\s*)(.*)", code, re.DOTALL).groups()
    pattern = re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(body))
    pattern = re.sub(r"(\\[(\[{])(?!\\s)", r"\1\\s*", pattern)
    return re.compile(indentation + re.sub(r"(?<!\\s\*)(\\[)\]}])", r",?\\s*\1", pattern))


def copy_to(directory: Path) -> None:
    """Copy the tree without its history and environment."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, directory / name)
    for folder in ROOT.iterdir():
        if folder.is_dir() and folder.name not in COPIED and not folder.name.startswith("."):
            (directory / folder.name).symlink_to(folder)


def plant(mutant: Mutant, directory: Path) -> Verdict:
    """Plant the mutant in the copy, run the tests, and restore the file."""
    target = directory / mutant.file
    original = target.read_text()
    target.write_text(mutated(mutant, directory))
    try:
        return Verdict(mutant, first_failure(mutant.tests, directory))
    finally:
        target.write_text(original)


def first_failure(tests: tuple[str, ...], directory: Path) -> str:
    """Return the first test that fails in the copy, or ""."""
    # Set before torch is loaded: with small products, several threads wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"
    output = directory / "output.txt"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    process = processes.Process(target=_test, args=(tests, directory, output))
    process.start()
    process.join(TIMEOUT_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode == pytest.ExitCode.OK:
        return ""
    found = FAILED.search(output.read_text())
    if process.exitcode != pytest.ExitCode.TESTS_FAILED or found is None:
        raise RuntimeError(f"pytest ended with {process.exitcode}:\n{output.read_text()[-4000:]}")
    return found[1]


def _test(tests: tuple[str, ...], directory: Path, output: Path) -> None:
    """Run pytest in a separate process, in which no module of the original tree may be imported."""
    with output.open("w") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    os.chdir(directory)
    sys.dont_write_bytecode = True  # stale bytecode would hide a mutant
    sys.path[:] = [
        entry for entry in sys.path if entry and not Path(entry).is_relative_to(ROOT / "gen")
    ]
    sys.path[:] = [entry for entry in sys.path if Path(entry) != ROOT]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "training")]:
        del sys.modules[name]
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    # Preloaded plugins cannot be rewritten, which is irrelevant for our tests.
    preloaded = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    sys.exit(pytest.main([*options, *preloaded, *tests]))
