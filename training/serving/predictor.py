"""CPU model server for a model directory, for the time of an evaluation."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from training.errors import ConfigError
from training.serving.endpoint import (
    CONNECT_SECONDS,
    MAX_ERROR_CHARACTERS,
    Endpoint,
    EndpointError,
)

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS, STOP_SECONDS, POLL_SECONDS = 600.0, 30.0, 0.1


@contextmanager
def serving(model_directory: Path) -> Iterator[Endpoint]:
    """Start the CPU model server for a model directory and stop it at the end of the block.

    Weights and arithmetic are float32, so that scores are those of the checkpoint on any processor.

    Raises:
        ConfigError: the directory has no manifest.
        EndpointError: the server does not start; the text has the server's reason.
    """
    try:
        manifest = json.loads((model_directory / "manifest.json").read_bytes())
        version = str(manifest["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"model: {model_directory} is not a model directory with a manifest.json; "
            "`thumbwheel models fetch` makes one",
            field="model",
            reason="NOT_A_MODEL",
            limit="a directory with manifest.json",
        ) from error
    print(f"starting the model server for {version}", file=sys.stderr, flush=True)
    key = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="thumbwheel-evaluate-") as folder:
        log, failure = Path(folder, "log"), Path(folder, "failure")
        own = {
            "PORT": "0",
            "METRICS_PORT": "0",
            "MODEL_SERVER_KEY": key,
            "CACHE_DIRECTORY": folder,
            "STARTUP_MODELS": json.dumps([str(model_directory.absolute())]),
            "FAILURE_FILE": str(failure),
            "PRECISION": "f32",
            "WEIGHTS": "f32",
            "LOG_FORMAT": "text",
        }
        environment = {name: value for name, value in os.environ.items() if name[:3] != "TW_"}
        environment |= {f"TW_PREDICTOR_{name}": value for name, value in own.items()}
        with log.open("wb") as opened:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.predictor"],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=opened,
            )
        try:
            port = _wait_until_ready(process, log, failure)
            with Endpoint(f"http://127.0.0.1:{port}", version, key) as endpoint:
                yield endpoint
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, failure: Path) -> int:
    """Return the port when the model is loaded."""
    end = time.monotonic() + READY_SECONDS
    port = 0
    with urllib3.PoolManager(retries=False, timeout=CONNECT_SECONDS) as http:
        while time.monotonic() < end:
            if process.poll() is not None:
                lines = log.read_text(errors="replace").strip().splitlines() or ["no reason"]
                reason = failure.read_text() if failure.exists() else lines[-1]
                raise EndpointError(
                    f"the model server for the model ended: {reason[:MAX_ERROR_CHARACTERS]}",
                    field="model",
                    reason="NOT_SERVED",
                )
            found = re.search(r"listening .*port=(\d+)", log.read_text(errors="replace"))
            if found:
                port = int(found[1])
                try:
                    ready = http.request("GET", f"http://127.0.0.1:{port}/v2/health/ready")
                    if ready.status == 200:
                        return port
                except HTTPError:
                    pass  # the process may end between the check and the request
            time.sleep(POLL_SECONDS)
    raise EndpointError(
        "the model server for the model is not ready", field="model", limit=f"{READY_SECONDS:g} s"
    )
