"""Recipes by name, or from a user's Python file.

The file has a function `recipe(places: Places) -> OpenRecipe`.
"""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from training.errors import ConfigError, details_of, did_you_mean
from training.planning.stage import PlannedStage
from training.recipes.custom.assignments import assigned
from training.recipes.open_models.recipes import OpenRecipe, Places, recipe_named

FUNCTION = "recipe"
FIXED = (
    "model_directory",
    "reward_model_directory",
    "data_path",
    "output_directory",
    "lineage",
)  # set by options


def open_recipe(name: str, places: Places | None = None) -> OpenRecipe:
    """Open a recipe by its name or file.

    Raises:
        ConfigError: the recipe does not exist, or the file does not return a valid one.
    """
    if not name.endswith(".py"):
        return recipe_named(name, places)
    if not Path(name).is_file():
        raise ConfigError(f"recipe: {name} does not exist", field="recipe", reason="MISSING")
    with _errors_with_line(name):
        make = runpy.run_path(name).get(FUNCTION)
    if not callable(make):
        raise ConfigError(
            f"recipe: {name} has no function {FUNCTION}(places)", field="recipe", reason="EMPTY"
        )
    with _errors_with_line(name):
        recipe = make(places or Places())
    if not isinstance(recipe, OpenRecipe):
        raise ConfigError(
            f"recipe: {FUNCTION}(places) of {name} returned {type(recipe).__name__}, "
            "not OpenRecipe",
            field="recipe",
            reason="MISMATCH",
            limit="OpenRecipe",
        )
    names = [stage.name for stage in recipe.stages]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"recipe: stages of {name} have equal names: {', '.join(names)}",
            field="recipe",
            reason="DUPLICATE",
        )
    return recipe


@contextmanager
def _errors_with_line(name: str) -> Iterator[None]:
    """Report errors of the file with their line.

    Raises:
        ConfigError: the block raised an exception.
    """
    try:
        yield
    except SyntaxError as error:
        raise ConfigError(
            f"recipe: {error.filename} line {error.lineno}: {error.msg}",
            field="recipe",
            reason="MALFORMED",
        ) from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == name
        ]
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        details = details_of(error)
        raise ConfigError(
            f"recipe: {name} line {lines[-1] if lines else 1}: {kind}{error}",
            field=details["field"] or "recipe",
            reason=details["reason"] or "FAILED",
            limit=details["limit"],
        ) from error


def set_fields(stages: Sequence[PlannedStage], assignments: Sequence[str]) -> list[PlannedStage]:
    """Return the stages with these fields of their configs set.

    Raises:
        ConfigError: as `set_parts`.
    """
    configs = set_parts({stage.name: stage.config for stage in stages}, assignments)
    return [replace(stage, config=configs[stage.name]) for stage in stages]


def set_parts(
    parts: Mapping[str, Any],
    assignments: Sequence[str],
    fixed: Mapping[str, Sequence[str]] = MappingProxyType({}),
    assign: Callable[[Any, Sequence[str], Sequence[str]], Any] = assigned,
) -> dict[str, Any]:
    """Return the configs with these fields set.

    Args:
        parts: configs by the name of their stage; their classes for `parsed`.
        assignments: strings STAGE.NAME=VALUE.
        fixed: fields that cannot be assigned, by stage; FIXED for other stages.
        assign: called with each part, its assignments and fixed fields; `assigned` or `parsed`.

    Raises:
        ConfigError: as raised by `assign`; or the stage does not exist.
    """
    for text in assignments:
        if text.partition(".")[0] not in parts:
            raise ConfigError(
                f"set: {text!r} does not begin with a stage: "
                f"{' or '.join(f'{name}.' for name in parts)}"
                f"{did_you_mean(text.partition('.')[0], parts)}",
                field="set",
                reason="UNKNOWN",
                limit=", ".join(parts),
            )
    changed = {}
    for name, config in parts.items():
        try:
            changed[name] = assign(config, of_stage(name, assignments), fixed.get(name, FIXED))
        except ConfigError as error:
            raise ConfigError(f"{name}.{error}", **details_of(error, f"{name}.")) from error
    return changed


def of_stage(name: str, assignments: Sequence[str]) -> list[str]:
    """Return the assignments of one stage, without its name."""
    return [text.removeprefix(f"{name}.") for text in assignments if text.startswith(f"{name}.")]
