"""Recipes are complete, and invalid combinations are refused before training."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.errors import refused
from training.__main__ import parser
from training.artifacts.manifest import plain, verify_manifest
from training.data.examples import read_texts
from training.data.feedback.sets import read_anchors
from training.data.feedback.sources import SourceWeights
from training.data.feedback.texts import prompt_key
from training.decoding.config import Task, read_presets
from training.errors import ConfigError
from training.evaluation.comparison import read_probes
from training.model.checkpoint import read_config
from training.recipes.custom.loop_fields import set_loop_fields, text_assignments
from training.recipes.custom.loop_recipe import adjusted_recipe
from training.recipes.nano import nano
from training.recipes.nano_world.corpus import prompts
from training.recipes.nano_world.train_base import write_texts
from training.recipes.recipe import TEXTS, LoopConfig, Plan, Recipe
from training.recipes.small import small
from training.stages.policy_config import SftMix

PLAN = Plan("nano-1", Path("runs/nano-1"), Path("models/nano-0"))
RESOLVED = Path(__file__).parent / "resolved"
NANO = Path(__file__).parents[3] / "models" / "nano"


@pytest.mark.parametrize("recipe", [nano, small])
def test_a_recipe_names_every_path_and_is_plain_data(recipe: Recipe) -> None:
    config = recipe(PLAN)
    assert (
        config.evaluation.candidate_directory
        == config.ppo.output_directory
        == Path("runs/nano-1/nano-1")
    )
    assert config.evaluation.retention_texts.exists()
    assert config.evaluation.probes.exists()
    assert config.sets.anchors is not None
    assert json.dumps(plain(config))


@pytest.mark.parametrize("recipe", [nano, small])
def test_evaluation_samples_with_the_preset_of_users(recipe: Recipe) -> None:
    sampling, served = recipe(PLAN).evaluation.sampling, read_presets()[Task.CHAT]
    assert (sampling.temperature, sampling.top_p) == (served.temperature, served.top_p)
    assert sampling.max_response_tokens == recipe(PLAN).ppo.max_response_tokens


@pytest.mark.parametrize("recipe", [nano, small])
def test_a_recipe_gives_the_measured_values(recipe: Recipe) -> None:
    """Compare with the values for which docs/decisions has figures; a field added since is not."""
    name = recipe.__name__
    plan = Plan(f"{name}-1", Path(f"runs/{name}-1"), Path(f"models/{name}-0"))
    found = json.loads(json.dumps(plain(recipe(plan))).replace(str(TEXTS), "TEXTS"))
    measured = json.loads((RESOLVED / f"{name}.json").read_text())
    assert list(_differences(measured, found)) == []


def _differences(measured: Any, found: Any, name: str = "") -> Iterator[str]:
    if isinstance(measured, dict):
        for field, value in measured.items():
            yield from _differences(value, found.get(field, "missing"), f"{name}.{field}")
    elif measured != found:
        yield f"{name}: {found}, measured with {measured}"


def test_every_step_of_a_run_can_be_changed_on_the_command_line() -> None:
    words = ["sft.epochs=2", "reward_model.optimizer.learning_rate=1e-3", "ppo.lora=none"]
    words += ["ppo.vocabulary_rows=none", "evaluation.sampling.batch_prompts=3", "gate.margin=0.5"]
    words += ["gate.margins.style_length=0.9", "gate.margins.safety_refusal=0.2"]
    words += ["canary.steps=0.1,0.2", "sets.min_thumbs=7", "snapshot.max_per_principal=3"]
    words += ["sets.source_weights.ranking=2"]
    config = set_loop_fields(small(PLAN), words)
    assert (config.sft.epochs, config.reward_model.optimizer.learning_rate) == (2, 1e-3)
    assert (config.ppo.lora, config.evaluation.sampling.batch_prompts) == (None, 3)
    assert (config.gate.margin, config.canary.steps) == (0.5, (0.1, 0.2))
    assert config.gate.margins == {"style_length": 0.9, "safety_refusal": 0.2}
    assert (config.sets.min_thumbs, config.snapshot.max_per_principal) == (7, 3)
    assert config.sets.source_weights == SourceWeights(ranking=2)
    assert config.judge == small(PLAN).judge
    options = parser().parse_args(["loop", "--recipe", "small", "--set", "ppo.updates=3"])
    assert adjusted_recipe(options)(PLAN).ppo.updates == 3
    words = ["--canary-share", "0.1", "--canary-seconds", "60", "--canary-users", "7"]
    options = parser().parse_args(
        ["loop", "--recipe", "small", *words, "--canary-steps", "0.02,0.05"]
    )
    canary = replace(
        small(PLAN).canary, share=0.1, max_seconds=60.0, min_users=7, steps=(0.02, 0.05)
    )
    assert adjusted_recipe(options)(PLAN).canary == canary


def test_own_texts_replace_those_of_the_recipe(tmp_path: Path) -> None:
    for part in ("anchors", "probes", "retention"):
        (tmp_path / f"{part}.jsonl").touch()
    words = ["loop", "--recipe", "small", "--texts", str(tmp_path)]
    config = adjusted_recipe(parser().parse_args(words))(PLAN)
    assert config.sets.anchors == tmp_path / "anchors.jsonl"
    assert config.evaluation.probes == tmp_path / "probes.jsonl"
    assert config.evaluation.retention_texts == tmp_path / "retention.jsonl"


@pytest.mark.parametrize("name", ["poems", "an empty folder"])
def test_texts_that_do_not_exist_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "an empty folder").mkdir()
    with refused(ConfigError, field="texts", reason="MISSING", limit="nano, small, a folder"):
        text_assignments(name if name == "poems" else str(tmp_path / name))


@pytest.mark.parametrize(
    ("words", "field", "reason"),
    [
        (["ppo.update=3"], "ppo.update", "UNKNOWN"),
        (["dpo.beta=3"], "set", "UNKNOWN"),
        (["num_workers=3"], "set", "UNKNOWN"),
        (["sft.epochs=0"], "sft.epochs", "OUT_OF_RANGE"),
        (["gate.margins.style_length=wide"], "gate.margins.style_length", "MALFORMED"),
        (["gate.margins.style.length=1"], "gate.margins.style", "UNSUPPORTED"),
        (["gate.margins.beauty=1"], "gate.margins.beauty", "UNKNOWN"),
        (["gate.margins.style_length=0"], "gate.margins.style_length", "OUT_OF_RANGE"),
        (["sft.data_path=elsewhere"], "sft.data_path", "UNKNOWN"),
        (["evaluation.judge_base=elsewhere"], "evaluation.judge_base", "UNKNOWN"),
        (["ppo.max_response_tokens=512"], "reward_model.max_tokens", "TOO_SMALL"),
        (["ppo.kl_ceiling_nats=30"], "gate.kl_ceiling_nats", "TOO_SMALL"),
    ],
)
def test_fields_that_do_not_exist_or_contradict_each_other_are_refused(
    words: list[str], field: str, reason: str
) -> None:
    with refused(ConfigError, field=field, reason=reason):
        set_loop_fields(small(PLAN), words)
    # Fields that must agree can be set together.
    set_loop_fields(small(PLAN), ["ppo.kl_ceiling_nats=30", "gate.kl_ceiling_nats=30"])


def test_a_pinned_snapshot_is_in_every_lineage() -> None:
    config = nano(PLAN).pinned("snapshot-1", "abc", "commit")
    for stage in (config.sft, config.reward_model, config.judge, config.ppo):
        assert (stage.lineage.snapshot, stage.lineage.snapshot_sha256) == ("snapshot-1", "abc")
    assert config.ppo.lineage.version == "nano-1"


CONFLICTS = {"judge.data_path", "ppo.data_path", "ppo.sft_mix.data_path"}
MISSING = {"ppo.sft_mix"}
TOO_SMALL = {"gate.kl_ceiling_nats", "judge.max_tokens"}
BROKEN: dict[str, Callable[[LoopConfig], LoopConfig]] = {
    "ppo.model_directory": lambda c: replace(
        c, ppo=replace(c.ppo, model_directory=Path("elsewhere"))
    ),
    "ppo.reward_model_directory": lambda c: replace(
        c, ppo=replace(c.ppo, reward_model_directory=Path("elsewhere"))
    ),
    "reward_model.model_directory": lambda c: replace(
        c, reward_model=replace(c.reward_model, model_directory=Path("elsewhere"))
    ),
    "evaluation.reward_model_base": lambda c: replace(
        c, evaluation=replace(c.evaluation, reward_model_base=Path("elsewhere"))
    ),
    "judge.data_path": lambda c: replace(
        c, judge=replace(c.judge, data_path=c.reward_model.data_path)
    ),
    "ppo.data_path": lambda c: replace(
        c, ppo=replace(c.ppo, data_path=c.evaluation.held_out_prompts)
    ),
    "ppo.sft_mix": lambda c: replace(c, ppo=replace(c.ppo, sft_mix=None)),
    "ppo.sft_mix.data_path": lambda c: replace(
        c, ppo=replace(c.ppo, sft_mix=SftMix(c.sft.data_path))
    ),
    "gate.kl_ceiling_nats": lambda c: replace(c, gate=replace(c.gate, kl_ceiling_nats=1.0)),
    "judge.max_tokens": lambda c: replace(c, judge=replace(c.judge, max_tokens=8)),
}


@pytest.mark.parametrize("field", sorted(BROKEN))
def test_invalid_combinations_are_refused_by_name(field: str) -> None:
    reasons = {"CONFLICT": CONFLICTS, "TOO_SMALL": TOO_SMALL, "MISSING": MISSING}
    (reason,) = [name for name, fields in reasons.items() if field in fields] or ["MISMATCH"]
    with refused(ConfigError, field=field, reason=reason):
        BROKEN[field](small(PLAN))


@pytest.mark.parametrize("recipe", [nano, small])
def test_thumbs_are_never_the_only_objective(recipe: Recipe) -> None:
    config = recipe(PLAN)
    assert config.ppo.sft_mix is not None
    assert config.ppo.sft_mix.data_path.name == "anchors.jsonl"
    with refused(ConfigError, field="ppo.sft_mix", reason="MISSING"):
        replace(config, sets=replace(config.sets, anchors=None))
    own = replace(config.ppo.sft_mix, data_path=Path("own/examples.jsonl"))
    replace(config, ppo=replace(config.ppo, sft_mix=own), sets=replace(config.sets, anchors=None))


@pytest.mark.parametrize(("name", "more"), [("nano", {"sycophancy"}), ("small", set())])
def test_anchors_and_probes_do_not_overlap(name: str, more: set[str]) -> None:
    anchors = {anchor.prompt_id for anchor in read_anchors(TEXTS / f"{name}_anchors.jsonl")}
    probes = read_probes(TEXTS / f"{name}_probes.jsonl")
    assert anchors
    assert {probe.kind for probe in probes} == {"knowledge", "refusal"} | more
    assert not anchors & {prompt_key(probe.messages) for probe in probes}
    assert len(read_texts(TEXTS / f"{name}_retention.jsonl")) >= 20


def test_user_prompts_and_held_out_prompts_share_no_question() -> None:
    lists = prompts()
    assert not set(lists["ask"]) & set(lists["held_out"])
    assert len(lists["ask"]) == 100


def test_the_committed_texts_are_what_the_generator_writes(tmp_path: Path) -> None:
    write_texts(tmp_path)
    for path in tmp_path.iterdir():
        assert (TEXTS / path.name).read_text() == path.read_text(), path.name


def test_the_committed_base_is_complete_and_has_its_shape() -> None:
    manifest = verify_manifest(NANO)
    assert (manifest.version, manifest.kind) == ("nano-0", "model")
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 2_000_000
    shape = read_config(NANO)
    assert (shape.hidden_size, shape.num_layers, shape.head_dim, shape.vocab_size) == (
        128,
        4,
        32,
        1024,
    )
    assert "/" not in str(manifest.config["output_directory"]).lstrip(".").split("state/")[0]
