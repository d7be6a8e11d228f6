"""Base model of an embedded run: small, the committed nano, a directory or a hub id.

A state folder belongs to a single base model: token counts of conversations use its tokenizer, and
later versions descend from it.
"""

import json
import shutil
from pathlib import Path

from infra.install.environment import atomic_folder
from infra.install.small_model.resolve import resolve_model
from infra.run.embedded.layout import ROOT, Layout
from training.errors import DetailedError

BASE = "base.json"
NANO = "nano"
NANO_VERSION = "nano-0"


class WrongBaseError(DetailedError):
    """The state folder belongs to another base model."""

    reason = "MISMATCH"


def install_base(layout: Layout, spec: str) -> Path:
    """Return the directory of the first stable version; install the version if missing.

    Raises:
        WrongBaseError: the state folder was created with another model.
        ModelError: the model is unavailable; the message explains how to get it.
    """
    if spec == NANO:
        directory = layout.models / NANO_VERSION
        if not (directory / "manifest.json").exists():
            shutil.rmtree(directory, ignore_errors=True)
            with atomic_folder(directory) as folder:
                shutil.copytree(ROOT / "models" / NANO, folder, dirs_exist_ok=True)
    else:
        directory = resolve_model(spec, layout.models)
    if base := read_base(layout.state):
        if base != directory.name:
            raise WrongBaseError(
                f"{layout.state} was created with {base}, not {directory.name}; "
                "use a separate state folder: "
                f"make up MODEL={spec} STATE=.state-{directory.name}",
                field="MODEL",
                limit=base,
            )
        return directory
    file = layout.state / BASE
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps({"base": directory.name}))
    partial.replace(file)
    return directory


def read_base(state: Path) -> str | None:
    """Return the base version of a state folder, or None before the first start."""
    file = state / BASE
    return str(json.loads(file.read_text())["base"]) if file.exists() else None
