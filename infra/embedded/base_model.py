"""Which model an embedded run starts from: the small one, the committed nano, a directory, or a hub
id.

A state folder belongs to one base: conversations are counted with its tokenizer and later versions
descend from it.
"""

import json
import shutil
from pathlib import Path

from infra.embedded.layout import ROOT, Layout
from infra.install.environment import filled_whole
from infra.small_model.resolve import resolve_model
from training.errors import DetailedError

NANO = "nano"
NANO_VERSION = "nano-0"


class WrongBaseError(DetailedError):
    """The state folder belongs to another model."""

    reason = "MISMATCH"


def install_base(layout: Layout, spec: str) -> Path:
    """The directory of the first stable version, installed if it is not there.

    Raises:
        WrongBaseError: the state folder was begun with another model.
        ModelError: the model cannot be had; the text says what is missing and how to get it.
    """
    directory = _install_nano(layout) if spec == NANO else resolve_model(spec, layout.models)
    file = layout.state / "base.json"
    if file.exists():
        base = json.loads(file.read_text())["base"]
        if base != directory.name:
            raise WrongBaseError(
                f"{layout.state} was begun with {base}, not {directory.name}; "
                f"give this model a folder of its own: make up MODEL={spec} STATE=.state-{directory.name}",
                field="MODEL",
                limit=base,
            )
        return directory
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps({"base": directory.name}))
    partial.replace(file)
    return directory


def _install_nano(layout: Layout) -> Path:
    target = layout.models / NANO_VERSION
    if not (target / "manifest.json").exists():
        shutil.rmtree(target, ignore_errors=True)
        with filled_whole(target) as folder:
            shutil.copytree(ROOT / "models" / NANO, folder, dirs_exist_ok=True)
    return target
