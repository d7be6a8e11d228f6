"""Stages and recipes on user files from the command line."""

import json
import re
from pathlib import Path

import pytest

from tests.training.refused_commands import refused_command
from tests.training.toys import sft_rows, toy_model, user, write_lines
from training.__main__ import main
from training.artifacts.manifest import read_manifest
from training.data.formats.catalogue import kind_of
from training.data.formats.fields import ExampleError
from training.decoding.arguments import chat_command
from training.model.config import read_config
from training.recipes.custom.commands import lengths
from training.recipes.custom.stages import STAGES
from training.recipes.names import OPEN_MODELS
from training.reporting.stage import EXPLANATIONS
from training.stage_record import read_record
from training.stages.ppo import PpoConfig
from training.stages.sft import SftConfig

THREAD = ("--set", "machine.threads=1")
SMALL = ("--set", "max_prompt_tokens=48", "--set", "max_response_tokens=8", "--set", "updates=2")
RECIPE = """
from training.optim.optimizers import OptimizerConfig
from training.planning.plan import PlannedStage
from training.planning.work import DataSize
from training.recipes.open_models.recipes import OpenRecipe, Places
from training.runtime.context import Lineage, Machine
from training.stages.dpo import DpoConfig
from training.stages.sft import SftConfig


def recipe(places: Places) -> OpenRecipe:
    taught = places.output / "taught"
    machine = Machine(threads=1)
    data = places.data / "sft.jsonl"
    sft = SftConfig(places.models / "toy", data, taught, Lineage("taught"), machine=machine)
    data, aligned = places.data / "pairs.jsonl", places.output / "aligned"
    dpo = DpoConfig(taught, data, aligned, Lineage("aligned"))
    size = DataSize(rows=60, prompt_tokens=10, response_tokens=4)
    stages = (PlannedStage("sft", sft, size), PlannedStage("dpo", dpo, size))
    return OpenRecipe("mine", 1, "", stages)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a toy model and a data file for each kind of stage."""
    folder = tmp_path_factory.mktemp("own")
    toy_model(folder / "toy")
    pairs = [
        {
            "messages": user(f"say {i % 20}"),
            "chosen": "good tree",
            "rejected": "bad stone",
            "prompt_id": str(i % 20),
        }
        for i in range(60)
    ]
    write_lines(folder / "sft.jsonl", sft_rows(64))
    write_lines(folder / "pairs.jsonl", pairs)
    thumbs = [
        {key: pair[key] for key in ("messages", "prompt_id")}
        | {"response": pair[side], "thumb": thumb}
        for pair in pairs
        for side, thumb in (("chosen", "up"), ("rejected", "down"))
    ]
    write_lines(folder / "thumbs.jsonl", thumbs)
    write_lines(folder / "prompts.jsonl", [{"messages": pair["messages"]} for pair in pairs])
    return folder


def command(files: Path, stage: str, model: Path, data: str, *more: str) -> list[str]:
    return [
        stage,
        "--model",
        str(model),
        "--data",
        str(files / data),
        "--work",
        str(files / "work"),
        *THREAD,
        *more,
    ]


def test_all_stages_run_from_the_command_line(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = files / "work"
    assert (
        main(
            command(
                files, "sft", files / "toy", "sft.jsonl", "--name", "taught", "--set", "epochs=2"
            )
        )
        == 0
    )
    taught = work / "taught"
    assert read_manifest(taught).parents == ("toy",)
    said = capsys.readouterr().out
    assert f"{taught}\n" in said
    assert "held_out_loss " in said
    assert f"  chat: {chat_command(taught)}\n" in said
    assert main(command(files, "reward-model", taught, "pairs.jsonl", "--name", "judge")) == 0
    assert "chat: " not in capsys.readouterr().out
    judged = ("--reward-model", str(work / "judge"), *SMALL)
    ppo = ("--set", "prompts_per_update=16", "--set", "minibatch_rows=8")
    assert main(command(files, "ppo", taught, "prompts.jsonl", *judged, *ppo)) == 0
    assert read_manifest(work / "taught-ppo").parents == ("taught", "judge")
    groups = (
        "--set",
        "prompts_per_update=4",
        "--set",
        "samples_per_prompt=4",
        "--set",
        "minibatch_rows=16",
    )
    assert main(command(files, "grpo", taught, "prompts.jsonl", *judged, *groups)) == 0
    assert main(command(files, "dpo", taught, "pairs.jsonl", "--set", "lora.rank=2")) == 0
    assert (work / "taught-dpo" / "adapter").is_dir()
    capsys.readouterr()
    assert main(command(files, "kto", taught, "thumbs.jsonl")) == 0
    said = capsys.readouterr().out
    for figure in ("answers_unsampled", "kl"):
        assert f"\n  {figure}: {EXPLANATIONS[figure]}\n" in said
    assert read_manifest(work / "taught-kto").report["train_thumbs_up"] > 0
    pages = {path.parent.name for path in (work / "runs").glob("*/stage.json")}
    assert pages == {"taught", "judge", "taught-ppo", "taught-grpo", "taught-dpo", "taught-kto"}


def test_default_row_lengths_follow_the_positions_of_the_model(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = json.loads((toy_model(files / "short") / "config.json").read_text())
    (files / "short" / "config.json").write_text(json.dumps(raw | {"max_position_embeddings": 100}))
    asked = command(files, "sft", files / "short", "sft.jsonl")
    too_long = [*asked, "--name", "too-long", "--set", "max_tokens=101"]
    _, line = refused_command(
        too_long, capsys, field="max_tokens", reason="TOO_LARGE", limit="at most 100"
    )
    assert "short" in line
    assert main(asked) == 0
    assert read_manifest(files / "work" / "short-sft").config["max_tokens"] == 100
    assert lengths(PpoConfig, read_config(files / "short")) == {"max_prompt_tokens": 36}
    assert lengths(SftConfig, read_config(files / "toy")) == {"max_tokens": 512}
    assert lengths(PpoConfig, read_config(files / "toy")) == {"max_prompt_tokens": 256}


def test_a_run_resumes_only_with_the_same_config(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = command(files, "sft", files / "toy", "sft.jsonl", "--name", "again")
    assert main(asked) == 0
    made = read_manifest(files / "work" / "again")
    capsys.readouterr()
    assert main(asked) == 0
    assert capsys.readouterr().out.startswith("again: ")
    record = read_record(files / "work" / "runs" / "again")
    assert record is not None
    assert len(record.starts) == 1, "it is finished already"
    assert read_manifest(files / "work" / "again") == made
    other = [*asked, "--set", "epochs=3"]
    _, line = refused_command(other, capsys, field="epochs", reason="MISMATCH", limit="1")
    assert "again" in line
    assert re.findall(r"\d+", line) == ["1", "3"]


@pytest.mark.parametrize(
    ("stage", "data", "more", "field", "reason", "named"),
    [
        ("sft", "nothing.jsonl", (), "data", "MISSING", "nothing.jsonl"),
        ("sft", "sft.jsonl", ("--set", "epoch=2"), "epoch", "UNKNOWN", "epochs"),
        ("sft", "sft.jsonl", ("--set", "max_tokens=2"), "max_tokens", "TOO_SMALL", "2"),
        ("sft", "sft.jsonl", ("--set", "epochs=0"), "epochs", "OUT_OF_RANGE", "0"),
        (
            "sft",
            "sft.jsonl",
            ("--set", "optimizer.gradient_clip=-1"),
            "optimizer.gradient_clip",
            "OUT_OF_RANGE",
            "-1.0",
        ),
        (
            "sft",
            "sft.jsonl",
            ("--set", "held_out_fraction=0.999"),
            "held_out_fraction",
            "EMPTY",
            "0.999",
        ),
        ("grpo", "prompts.jsonl", SMALL, "reward-model", "MISSING", "prompts.jsonl"),
        ("sft", "sft.jsonl", ("--name", "../../evil"), "name", "MALFORMED", "../../evil"),
        ("sft", "sft.jsonl", ("--name", ".."), "name", "MALFORMED", ".."),
        ("sft", "sft.jsonl", ("--name", "runs"), "name", "IN_USE", "runs"),
    ],
)
def test_invalid_commands_are_refused_in_one_line(
    files: Path,
    stage: str,
    data: str,
    more: tuple[str, ...],
    field: str,
    reason: str,
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = command(
        files, stage, files / "toy", data, "--name", f"refused-{abs(hash(more))}", *more
    )
    _, line = refused_command(asked, capsys, field=field, reason=reason)
    assert field in line
    assert named in line
    assert not (files / "evil").exists()


def test_rows_of_another_stage_are_refused_in_one_line(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = command(files, "sft", files / "toy", "pairs.jsonl", "--name", "rows")
    refused_command(asked, capsys, ExampleError, field="pairs.jsonl:1:response", reason="MISSING")


def test_format_of_the_rows_is_printed_first(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"instruction": row["messages"][0]["content"], "output": row["response"], "note": "x"}
        for row in sft_rows(64)
    ]
    write_lines(files / "alpaca.jsonl", rows)
    asked = command(files, "sft", files / "toy", "alpaca.jsonl", "--name", "alpaca")
    refused_command(asked, capsys, ExampleError, field="alpaca.jsonl:1:note", reason="UNKNOWN")
    assert not (files / "work" / "runs" / "alpaca").exists()
    assert main([*asked, "--allow-extra-fields"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("data: 64 rows, instruction/input/output (Alpaca)")
    assert "note (64)" in first
    assert read_manifest(files / "work" / "alpaca").config["allow_extra_fields"] is True


@pytest.mark.parametrize("stage", STAGES)
def test_help_names_the_formats_of_the_rows(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([stage, "--help"])
    said = capsys.readouterr().out
    assert [one.name for one in kind_of(stage).formats if one.name not in said] == []


def test_reward_model_and_language_model_are_not_interchangeable(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge, model = files / "some-judge", files / "toy"
    judge.mkdir()
    (judge / "reward_model.json").write_text("{}")
    many = ("--reward-model", str(judge), "--set", "prompts_per_update=500")
    for stage, data, begun, more, field, reason, named in (
        ("sft", "sft.jsonl", judge, (), "model", "MISMATCH", str(judge)),
        (
            "ppo",
            "prompts.jsonl",
            model,
            ("--reward-model", str(model)),
            "reward-model",
            "MISMATCH",
            str(model),
        ),
        ("grpo", "prompts.jsonl", model, many, "prompts_per_update", "TOO_LARGE", "60"),
    ):
        asked = command(files, stage, begun, data, "--name", "mistaken", *more)
        out, line = refused_command(asked, capsys, field=field, reason=reason)
        assert named in line
        assert out == "", "it did not say that it started"
    assert not (files / "work" / "runs" / "mistaken").exists()


def test_a_recipe_from_a_user_file_is_planned_and_run(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "mine.py").write_text(RECIPE)
    places = ["--models", str(files), "--data", str(files), "--work", str(files / "recipe")]
    capsys.readouterr()
    assert main(["run", str(files / "mine.py"), *places, "--set", "dpo.beta=0.2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("sft data: 64 rows, messages/response\n")
    assert "dpo data: 60 rows, messages/chosen/rejected\n" in said
    stage = json.loads((files / "recipe" / "runs" / "dpo" / "stage.json").read_text())
    assert stage["config"]["beta"] == 0.2
    assert read_manifest(files / "recipe" / "aligned").parents == ("taught",)
    assert main(["plan", "--recipe", str(files / "mine.py"), "--model", str(files / "toy")]) == 0
    assert "dpo" in capsys.readouterr().out


def test_a_number_out_of_range_in_a_recipe_file_is_refused_in_one_line(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "wrong.py").write_text(
        RECIPE.replace("machine=mach", "optimizer=OptimizerConfig(gradient_clip=0), machine=mach")
    )
    places = ["--models", str(files), "--data", str(files), "--work", str(files / "wrong")]
    wrong = ["run", str(files / "wrong.py"), *places]
    _, line = refused_command(
        wrong, capsys, field="gradient_clip", reason="OUT_OF_RANGE", limit="above 0"
    )
    assert str(files / "wrong.py") in line
    assert not (files / "wrong").exists()


def test_the_recipe_of_the_documentation_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    (tmp_path / "mine.py").write_text(page.partition("```python\n# mine.py")[2].partition("```")[0])
    planned = ["plan", "--recipe", str(tmp_path / "mine.py"), "--gpus", "8"]
    assert main([*planned, "--set", "sft.parallelism.shard=8"]) == 0
    with_fields = capsys.readouterr().out
    assert "sft" in with_fields
    assert main([*planned, "--shard", "8"]) == 0
    assert capsys.readouterr().out == with_fields
    refused_command(planned, capsys, field="sft", reason="TOO_LARGE")
    unknown = [*planned, "--set", "ppo.beta=1"]
    _, line = refused_command(unknown, capsys, field="set", reason="UNKNOWN", limit="sft")
    assert "ppo.beta=1" in line


@pytest.mark.parametrize(
    ("text", "field", "reason", "at", "named"),
    [
        ("\ndef recipe(:\n", "recipe", "MALFORMED", 2, ""),
        ("import nobody_has_this\n", "recipe", "FAILED", 1, "nobody_has_this"),
        ("def recipe(places):\n    return 1 / 0\n", "recipe", "FAILED", 2, "ZeroDivisionError"),
        (
            "from training.model.lora import LoraConfig\n\n\n"
            "def recipe(places):\n    return LoraConfig(rank=0)\n",
            "rank",
            "OUT_OF_RANGE",
            5,
            "rank",
        ),
        ("places = 1\n", "recipe", "EMPTY", None, "recipe(places)"),
        ("def recipe(places):\n    return 1\n", "recipe", "MISMATCH", None, "int"),
    ],
)
def test_errors_of_a_recipe_file_are_reported_in_one_line(
    text: str,
    field: str,
    reason: str,
    at: int | None,
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(text)
    _, line = refused_command(["plan", "--recipe", str(bad)], capsys, field=field, reason=reason)
    assert str(bad) in line
    assert named in line
    assert at is None or str(at) in re.findall(r"\d+", line.replace(str(bad), ""))


def test_an_unknown_stage_is_refused_with_the_known_names(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "mine.py").write_text(RECIPE)
    places = ["--models", str(files), "--data", str(files), "--work", str(files / "other")]
    mine, nothing = str(files / "mine.py"), str(files / "nothing.py")
    for recipe, more, field, reason, limit, named in (
        (mine, ("--stages", "ppo"), "stages", "UNKNOWN", "sft, dpo", "ppo"),
        (mine, ("--set", "ppo.beta=1"), "set", "UNKNOWN", "sft, dpo", "ppo.beta=1"),
        (mine, ("--set", "dpo.beta=0"), "dpo.beta", "OUT_OF_RANGE", "above 0 and finite", "0.0"),
        ("nobody", (), "recipe", "UNKNOWN", ", ".join(OPEN_MODELS), "nobody"),
        (nothing, (), "recipe", "MISSING", "", nothing),
    ):
        _, line = refused_command(
            ["run", recipe, *places, *more], capsys, field=field, reason=reason, limit=limit
        )
        assert named in line
