"""Entries of KServe's repository extension: names, states, and the check of a request to load."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.predictor.errors import InvalidRequestError, ModelRefusedError

VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class State(StrEnum):
    """States of KServe's repository extension."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One entry of the index."""

    name: str
    state: State
    reason: str
    directory: Path


def check_load_request(name: str, directory: Path, root: Path | None) -> None:
    """Check the name and the directory of a version to load, without a look at the files.

    Args:
        root: directories outside are refused; None allows all.

    Raises:
        InvalidRequestError: the name is not allowed, or the path is not absolute.
        ModelRefusedError: the directory is outside the root.
    """
    if not VERSION_NAME.fullmatch(name):
        raise InvalidRequestError(
            "version must be 1 to 128 of A-Z a-z 0-9 . _ -, starting with a letter or digit",
            field="version",
            reason="MALFORMED",
            limit="1 to 128 of A-Z a-z 0-9 . _ -",
        )
    if not directory.is_absolute():
        raise InvalidRequestError(
            "parameters.directory must be an absolute path",
            "parameters.directory",
            reason="MALFORMED",
            limit="an absolute path",
        )
    if root is not None and not directory.resolve().is_relative_to(root.resolve()):
        raise ModelRefusedError(
            "parameters.directory must be inside the models' root",
            "parameters.directory",
            reason="OUT_OF_RANGE",
        )
