"""Recipes for open models load, fit their GPUs, and are refused on fewer GPUs."""

from pathlib import Path

import pytest

from tests.support.errors import refused
from training.errors import ConfigError
from training.planning.accelerators import ACCELERATORS
from training.planning.layout import Layout
from training.planning.plan import fitting_layouts, plan_recipe
from training.planning.text import text
from training.recipes.open_models.recipes import RECIPES, OpenRecipe, Places, recipe_named, shape
from training.stages.sft import SftConfig

H100, FEWER = ACCELERATORS["h100"], {64: 8, 8: 1}
# Another layout fits eight GPUs since logits are computed in chunks, at a quarter of the batch.
FIT_FEWER = {"gemma-3-27b-sft"}


@pytest.fixture(params=list(RECIPES))
def recipe(request: pytest.FixtureRequest) -> OpenRecipe:
    return recipe_named(request.param)


def test_recipes_have_their_listed_name_and_size(
    recipe: OpenRecipe,
) -> None:
    assert RECIPES[recipe.name](Places()) == recipe
    assert recipe.gpus in (1, 8, 64)
    assert {recipe_named(name).gpus for name in RECIPES} == {1, 8, 64}


def test_a_recipe_fits_its_gpus(recipe: OpenRecipe) -> None:
    plan = plan_recipe(recipe.name, recipe.stages, shape(recipe.shape), recipe.gpus, H100)
    assert [stage.name for stage in plan.stages] == [stage.name for stage in recipe.stages]
    for stage in plan.stages:
        assert stage.memory.bytes <= H100.usable_bytes
        assert 0 < stage.hours < 100
    assert recipe.name in text(plan)


def test_a_recipe_is_refused_on_fewer_gpus_or_smaller_ones(recipe: OpenRecipe) -> None:
    fewer, accelerator = FEWER.get(recipe.gpus, 1), H100 if recipe.gpus > 1 else ACCELERATORS["l4"]
    with pytest.raises(ConfigError) as caught:
        plan_recipe(recipe.name, recipe.stages, shape(recipe.shape), fewer, accelerator)
    assert caught.value.reason in ("TOO_LARGE", "OUT_OF_RANGE")
    (stage,) = (
        stage for stage in recipe.stages if stage.name == caught.value.field.partition(".")[0]
    )
    found = list(fitting_layouts(stage, shape(recipe.shape), fewer, accelerator))
    assert bool(found) == (recipe.name in FIT_FEWER)


def test_stages_continue_from_the_previous_and_write_separately(recipe: OpenRecipe) -> None:
    made = [stage.config.output_directory for stage in recipe.stages]
    assert len(set(made)) == len(made)
    first = recipe.stages[0].config
    assert (
        not hasattr(first, "model_directory")
        or first.model_directory == Path("models") / recipe.shape
    )
    for stage in recipe.stages[1:]:
        assert stage.config.model_directory == made[0]  # type: ignore[union-attr]
        assert stage.config.lineage.version == stage.config.output_directory.name


def test_a_stage_is_planned_with_the_layout_of_its_config(recipe: OpenRecipe) -> None:
    plan = plan_recipe(recipe.name, recipe.stages, shape(recipe.shape), recipe.gpus, H100)
    for stage, planned in zip(recipe.stages, plan.stages, strict=True):
        assert planned.layout == Layout(recipe.gpus, stage.config.parallelism)


def test_places_set_all_paths() -> None:
    recipe = recipe_named("llama-3.1-8b-full", Places(Path("/m"), Path("/d"), Path("/o")))
    sft = recipe.stages[0].config
    assert isinstance(sft, SftConfig)
    assert (sft.model_directory, sft.data_path) == (Path("/m/llama-3.1-8b"), Path("/d/sft.jsonl"))
    assert sft.output_directory == Path("/o/llama-3.1-8b-full-sft")


def test_an_unknown_recipe_is_refused_with_known_names() -> None:
    with refused(ConfigError, field="recipe", reason="UNKNOWN", limit=", ".join(RECIPES)):
        recipe_named("gpt")
