"""Base model of an embedded run: small, the committed nano, a directory or a hub id.

A state folder belongs to a single base model: token counts of conversations use its tokenizer, and
later versions descend from it. The folder of a system in front of an external model has none.
"""

import argparse
import json
import shutil
from pathlib import Path

from infra.install.environment import atomic_folder
from infra.install.small_model.resolve import resolve_model
from infra.run.embedded.layout import ROOT, Layout
from infra.run.embedded.model_server import ModelServer
from training.errors import DetailedError
from training.recipes.names import check_model_size

BASE = "base.json"
NANO = "nano"
NANO_VERSION = "nano-0"
EXTERNAL = "external"  # in place of a base version


class WrongBaseError(DetailedError):
    """The state folder belongs to another base model."""

    reason = "MISMATCH"


class NothingToTrainError(DetailedError):
    """An external model answers, which cannot be trained."""

    reason = "EXTERNAL_SERVING"


def install_base(layout: Layout, spec: str, recipe: str = "") -> Path:
    """Return the directory of the first stable version; install the version if missing.

    Args:
        recipe: recipe of the loop that will train the model; "" for any.

    Raises:
        ConfigError: the recipe cannot train the model; the state folder is unchanged.
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
    check_model_size(recipe, directory)
    _claim(layout.state, directory.name, f"MODEL={spec}")
    return directory


def first_model(layout: Layout, arguments: argparse.Namespace, recipe: str = "") -> Path | None:
    """Return the directory of the first stable version; None if an external model answers.

    Args:
        arguments: `server` and `model` of the command line.
        recipe: recipe of the loop that will train the model; "" for any.

    Raises:
        ConfigError: the recipe cannot train the model.
        WrongBaseError: the state folder was created with another model.
        ModelError: the model is unavailable; the message explains how to get it.
    """
    if arguments.server is ModelServer.EXTERNAL:
        claim_external(layout.state)
        return None
    return install_base(layout, arguments.model, recipe)


def claim_external(state: Path) -> None:
    """Record that a state folder belongs to a system in front of an external model.

    Raises:
        WrongBaseError: the state folder was created with a model.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    _claim(state, EXTERNAL, "SERVER=external")


def _claim(state: Path, name: str, option: str) -> None:
    """Record the base of a state folder, or raise WrongBaseError for another one."""
    if base := read_base(state):
        if base != name:
            raise WrongBaseError(
                f"{state} was created with {base}, not {name}; "
                f"use a separate state folder: make up {option} STATE=.state-{name}",
                field=option.partition("=")[0],
                limit=base,
            )
        return
    file = state / BASE
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps({"base": name}))
    partial.replace(file)


def require_own_model(state: Path) -> None:
    """Check that the system of a state folder has a model that training can improve.

    Raises:
        NothingToTrainError: an external model answers.
    """
    if read_base(state) == EXTERNAL:
        raise NothingToTrainError(
            f"an external model answers in {state}, which cannot be trained; start a system with a "
            "model of its own: make up MODEL=small STATE=.state-small",
            field="SERVER",
            limit="predictor or vllm",
        )


def read_base(state: Path) -> str | None:
    """Return the base version of a state folder, or None before the first start."""
    file = state / BASE
    return str(json.loads(file.read_text())["base"]) if file.exists() else None
