"""Fields of a run of the loop that `--set STAGE.FIELD=VALUE` and other options change."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

from training.errors import ConfigError
from training.evaluation.config import EvaluationConfig
from training.recipes.custom.assignments import parsed
from training.recipes.custom.recipe_file import set_parts
from training.recipes.recipe import TEXTS, LoopConfig

PARTS = (
    "snapshot",
    "sets",
    "sft",
    "reward_model",
    "judge",
    "ppo",
    "evaluation",
    "gate",
    "canary",
)
# Fields with the texts of the gate and the anchors, by the name of their file.
TEXT_FIELDS = {
    "anchors": "sets.anchors",
    "probes": "evaluation.probes",
    "retention": "evaluation.retention_texts",
}
CANARY_FIELDS = {  # by option
    "canary_share": "canary.share",
    "canary_seconds": "canary.max_seconds",
    "canary_users": "canary.min_users",
    "canary_steps": "canary.steps",
}
# Paths of the run, which its steps exchange. The stages before have FIXED.
EVALUATION_PATHS = tuple(
    name
    for name, kind in get_type_hints(EvaluationConfig).items()
    if kind in (Path, Path | None) and f"evaluation.{name}" not in TEXT_FIELDS.values()
)


def text_assignments(name: str) -> list[str]:
    """Return the assignments that select texts of the gate and anchors.

    Args:
        name: a recipe with texts, or a folder with a file for each of TEXT_FIELDS.

    Raises:
        ConfigError: there are no texts of this name, or a file is missing.
    """
    named = {part: TEXTS / f"{name}_{part}.jsonl" for part in TEXT_FIELDS}
    own = {part: Path(name).absolute() / f"{part}.jsonl" for part in TEXT_FIELDS}
    files = own if Path(name).is_dir() else named
    if missing := [file.name for file in files.values() if not file.is_file()]:
        known = ", ".join(sorted(file.name[: -len("_probes.jsonl")] for file in _probes()))
        raise ConfigError(
            f"texts: {name} is neither {known} nor a folder with anchors.jsonl, probes.jsonl and "
            f"retention.jsonl (missing: {', '.join(missing)})",
            field="texts",
            reason="MISSING",
            limit=f"{known}, a folder",
        )
    return [f"{field}={files[part]}" for part, field in TEXT_FIELDS.items()]


def _probes() -> list[Path]:
    return list(TEXTS.glob("*_probes.jsonl"))


def canary_assignments(options: argparse.Namespace) -> list[str]:
    """Return the assignments of --set to which the options of a canary are equal."""
    given = {name: getattr(options, name) for name in CANARY_FIELDS}
    return [f"{CANARY_FIELDS[name]}={text}" for name, text in given.items() if text is not None]


def check_loop_fields(assignments: Sequence[str]) -> None:
    """Check names and values of fields before the configuration is known.

    Raises:
        ConfigError: as `set_parts`, except for fields that contradict each other.
    """
    hints = get_type_hints(LoopConfig)
    kinds = {name: hints[name] for name in PARTS}
    set_parts(kinds, assignments, {"evaluation": EVALUATION_PATHS}, parsed)


def set_loop_fields(config: LoopConfig, assignments: Sequence[str]) -> LoopConfig:
    """Return the configuration with these fields of its steps set.

    All fields are set before the steps are compared, so two fields that must agree can be set
    together.

    Raises:
        ConfigError: as `set_parts`, or the steps contradict each other.
    """
    if not assignments:
        return config
    parts = {name: getattr(config, name) for name in PARTS}
    return replace(config, **set_parts(parts, assignments, {"evaluation": EVALUATION_PATHS}))
