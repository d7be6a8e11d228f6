"""A bug on purpose: one exact replacement in a copy of the code, and which of the tests falls over
it.
"""

import multiprocessing
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Copied, so that a copy holds no way back to the tree; the rest is linked.
COPIED = ("training", "tests", "pyproject.toml")
LINKED = ("gen", "infra", "models", "services")
PRELOADED = ["torch", "transformers", "pytest"]  # most of a short run's time
PATIENCE_SECONDS = 1200
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """before stands exactly once in the file; after takes its place. tests: the suites that must
    catch it, the likeliest first.

    equivalent: why no test can tell it from the code; empty: one must.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    equivalent: str = ""


@dataclass(frozen=True)
class Verdict:
    """caught_by: the first test that failed; empty: all passed."""

    mutant: Mutant
    caught_by: str

    @property
    def as_expected(self) -> bool:
        return bool(self.caught_by) != bool(self.mutant.equivalent)

    def text(self) -> str:
        if self.mutant.equivalent:
            said = (
                f"NOT EQUIVALENT, {self.caught_by}"
                if self.caught_by
                else f"equivalent: {self.mutant.equivalent}"
            )
        else:
            said = self.caught_by or "ESCAPED"
        return f"{self.mutant.name:<44} {said}"


class DoesNotApply(ValueError):
    """The code has changed under a mutant: the text says which, and where it looked."""


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
    """The tree without its history and its environment."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, directory / name)
    for name in LINKED:
        (directory / name).symlink_to(ROOT / name)


def plant(mutant: Mutant, directory: Path) -> Verdict:
    """Plant in the copy, test, and take it out again."""
    target = directory / mutant.file
    sound = target.read_text()
    target.write_text(mutated(mutant, directory))
    try:
        return Verdict(mutant, first_failure(mutant.tests, directory))
    finally:
        target.write_text(sound)


def first_failure(tests: tuple[str, ...], directory: Path) -> str:
    """The first test that fails in the copy; empty: none."""
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # before torch is loaded: threads of products this small wait for each other
    )
    output = directory / "output.txt"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    process = processes.Process(target=_test, args=(tests, directory, output))
    process.start()
    process.join(PATIENCE_SECONDS)
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
    """In a process of its own, where nothing of ours may come from the tree itself."""
    with output.open("w") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    os.chdir(directory)
    sys.dont_write_bytecode = True  # nothing compiled outlives its source
    sys.path[:] = [
        entry for entry in sys.path if entry and not Path(entry).is_relative_to(ROOT / "gen")
    ]
    sys.path[:] = [entry for entry in sys.path if Path(entry) != ROOT]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "training")]:
        del sys.modules[name]
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    preloaded = [
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]  # of plugins; their asserts are not ours
    sys.exit(pytest.main([*options, *preloaded, *tests]))
