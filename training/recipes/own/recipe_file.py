"""A recipe by its name, or from a Python file of one's own: a function `recipe(places: Places) -> OpenRecipe`."""

from __future__ import annotations

import runpy
from pathlib import Path

from training.recipes.open_models.recipes import OpenRecipe, Places, recipe_named
from training.stages.context import ConfigError

FUNCTION = "recipe"


def open_recipe(name: str, places: Places | None = None) -> OpenRecipe:
    """Raises: ConfigError: there is none of this name, or the file does not make one."""
    if not name.endswith(".py"):
        return recipe_named(name, places)
    if not Path(name).is_file():
        raise ConfigError(f"recipe: {name} is not there")
    made = runpy.run_path(name).get(FUNCTION)
    if not callable(made):
        raise ConfigError(f"recipe: {name} has no function {FUNCTION}(places)")
    recipe = made(places or Places())
    if not isinstance(recipe, OpenRecipe):
        raise ConfigError(f"recipe: {FUNCTION}(places) of {name} gave {type(recipe).__name__}, not OpenRecipe")
    names = [stage.name for stage in recipe.stages]
    if len(set(names)) < len(names):
        raise ConfigError(f"recipe: two stages of {name} have one name, of {', '.join(names)}")
    return recipe
