"""Provenance of a release: an in-toto statement with the predicate SLSA provenance v1."""

import datetime
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.release.errors import ReleaseError
from infra.release.signing import file_digest

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:thumbwheel:release:v1"


@dataclass(frozen=True)
class Source:
    """State of the clone: the commit, its time, and whether files differ from it."""

    commit: str
    time: datetime.datetime
    modified: bool


@dataclass(frozen=True)
class Run:
    """A run of the command: its words, the builder's URI and its start."""

    command: Sequence[str]
    builder: str
    started: datetime.datetime


def source_of(root: Path, allow_modified: bool) -> Source:
    """Return the state of the clone.

    Raises:
        ReleaseError: the clone has changes or new files, and `allow_modified` is not set; or it is
            no clone.
    """
    status, commit = (
        subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        )
        for words in (("status", "--porcelain"), ("show", "-s", "--format=%H %ct", "HEAD"))
    )
    if status.returncode or commit.returncode:
        raise ReleaseError(f"{root} is no clone of git", field="commit", reason="MISSING")
    modified = bool(status.stdout.strip())
    if modified and not allow_modified:
        raise ReleaseError(
            "the clone has changes that no commit contains; commit them, or pass --allow-modified",
            field="commit",
            reason="MODIFIED",
        )
    name, seconds = commit.stdout.split()
    return Source(name, datetime.datetime.fromtimestamp(int(seconds), datetime.UTC), modified)


def statement(
    subjects: Mapping[str, str],
    source: Source,
    inputs: Sequence[Path],
    parameters: Mapping[str, object],
    run: Run,
    root: Path,
) -> dict[str, object]:
    """Return the statement.

    Args:
        subjects: hexadecimal SHA-256 of files, and of manifests in archives, by name.
        inputs: files below `root` that determine third-party content, such as locks.
        parameters: options of the command by name.
    """
    locks = [
        {"name": str(path), "digest": {"sha256": file_digest(root / path)}}
        for path in sorted(set(inputs))
    ]
    commit = {"name": "git", "digest": {"gitCommit": source.commit}}
    definition: dict[str, object] = {
        "buildType": BUILD_TYPE,
        "externalParameters": {"command": [*run.command], **parameters},
        "internalParameters": {"modified": source.modified},
        "resolvedDependencies": [commit, *locks],
    }
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": name, "digest": {"sha256": digest}}
            for name, digest in sorted(subjects.items())
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": definition,
            "runDetails": {
                "builder": {"id": run.builder},
                "metadata": {
                    "startedOn": _time(run.started),
                    "finishedOn": _time(datetime.datetime.now(datetime.UTC)),
                },
            },
        },
    }


def _time(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
