"""Conversion in a separate process with low priority.

In a thread, saving the IR holds the interpreter lock (0.1 s for 100 M parameters), and the memory
of the conversion would remain allocated.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.__main__ import REFUSED


def convert_in_process(source: Path, target: Path) -> None:
    """Run `python -m services.predictor.graph` and wait.

    Raises:
        ModelRefusedError: the converter refused the model, or failed.
    """
    command = [sys.executable, "-m", "services.predictor.graph", str(source), str(target)]
    root = str(Path(__file__).resolve().parents[3])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    result = subprocess.run(  # noqa: S603 - own module and two paths, no shell
        command,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if result.returncode == REFUSED:
        raise ModelRefusedError(
            result.stderr, **json.loads(result.stdout.rpartition("\n")[2] or "{}")
        )
    if result.returncode:
        raise ModelRefusedError(f"the conversion ended with status {result.returncode}")
