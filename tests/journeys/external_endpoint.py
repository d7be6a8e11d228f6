"""Endpoint of an external model for journeys, with the settings of a system in front of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.stack import ROOT

KEY = "sk-key-of-the-test"


@contextmanager
def running_endpoint(port: int, model: str, **fields: Any) -> Iterator[None]:
    """Run an endpoint with a model as a process.

    Args:
        model: name of the model at the endpoint.
        fields: changes of the fake model server in tests/services/generator/predictor.py.
    """
    content = {"states": {model: "READY"}, "key": KEY, **fields}
    command = ["-m", "tests.services.generator.predictor", json.dumps(content), str(port)]
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{port}\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def set_external_model(
    folder: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    model: str,
    **changes: Any,
) -> None:
    """Set TW_GENERATOR_EXTERNAL_MODELS to one model of a local endpoint.

    Args:
        folder: folder for the file with the key.
        name: the version is external.NAME.
        model: name of the model at the endpoint.
        changes: fields of the setting that replace the usual ones.
    """
    key = folder / "key"
    key.write_text(KEY)
    external = {
        "url": f"http://127.0.0.1:{port}/v1",
        "model": model,
        "key_file": str(key),
        "developer": "Example",
        "licence": "proprietary",
    }
    monkeypatch.setenv("TW_GENERATOR_EXTERNAL_MODELS", json.dumps({name: external | changes}))
