"""Training on a task with computed verdicts: the command, and the measured gain."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.refused_commands import refused_command
from tests.training.toys import toy_model
from training.__main__ import main, parser
from training.artifacts.manifest import verify_manifest
from training.data.chat import ChatError
from training.data.examples import read_prompts
from training.data.formats.fields import ExampleError
from training.decoding.arguments import chat_command
from training.errors import ConfigError, DetailedError
from training.model.config import ModelConfig, llama_json, parse_config
from training.model.tensor_files import CheckpointError
from training.progress_log import PROGRESS, read_progress
from training.recipes.custom.assignments import settable
from training.recipes.custom.recipe_file import FIXED
from training.recipes.pretraining.shapes import SHAPES
from training.recipes.rlvr import commands, stage
from training.recipes.rlvr.held_out import Measured, change_text, share_text
from training.recipes.rlvr.recipe import DESCRIBED, LARGE, TINY, Size, make_config, settable_fields
from training.runtime.context import Lineage
from training.stages.policy_config import FIRST_UPDATE, GrpoConfig, PpoConfig
from training.verification.checks import Calls, Mathematics, Outcome, Verdict, VerificationError
from training.verification.items import Item, Split, parse_items, write_items
from training.verification.scorer import Scorer
from training.verification.workers import Workers

QUICK = Size(prompts=4, samples=4, minibatch_rows=8)
FAST = ("--set", "policy_optimizer.lr=3e-3")


def config_of(algorithm: str, size: Size) -> GrpoConfig | PpoConfig:
    given = {name: Path(name) for name in ("model_directory", "data_path", "output_directory")}
    return make_config(algorithm, size, 1e-3, {**given, "lineage": Lineage("")})


class OddAnswers(Workers):
    """Fake workers without start-up time: answers with an odd number of characters are correct."""

    def judge(self, check: object, response: str) -> Verdict:
        return Verdict(Outcome.RIGHT if len(response) % 2 else Outcome.WRONG)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def opened(_: object) -> Iterator[Scorer]:
        with OddAnswers(1) as workers:
            yield Scorer(workers, None)

    monkeypatch.setattr(commands, "TINY", QUICK)
    monkeypatch.setattr(commands, "open_scorer", opened)
    monkeypatch.setattr(stage, "open_scorer", opened)


def asked(tmp_path: Path, *more: str, **fields: object) -> list[str]:
    model = tmp_path / "toy"
    if not model.exists():
        toy_model(model)
    usual = {"updates": 2, "max_prompt_tokens": 500, "max_response_tokens": 4}
    sizes = ["--items", "12", "--held-out", "6"]
    for name, value in (usual | fields).items():
        sizes += ["--set", f"{name}={value}"]
    wanted = [
        "rlvr",
        "--task",
        "chain_sum",
        "--level",
        "0",
        "--model",
        str(model),
        *sizes,
        *FAST,
    ]
    return [*wanted, "--work", str(tmp_path / "work"), *more]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_model_is_trained_and_measured_before_and_after(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    assert main(asked(tmp_path, "--algorithm", algorithm)) == 0
    said = capsys.readouterr().out
    assert any(
        "toy" in line and re.findall(r"\d+", line)[-2:] == ["6", "2"] for line in said.splitlines()
    )
    assert any(algorithm in line and line.endswith(FIRST_UPDATE) for line in said.splitlines())
    assert any(re.findall(r"\d+", line)[-2:] == ["95", "6"] for line in said.splitlines())
    assert verify_manifest(work / f"toy-chain_sum-{algorithm}").report["updates"] == 2
    measured = work / "measured" / f"toy-chain_sum-{algorithm}"
    items = parse_items(read_prompts(measured / "items.jsonl"))
    assert all(item.split is Split.TRAIN for item in items)
    assert len({item.prompt for item in items}) == 12
    steps = read_progress(work / "runs" / f"toy-chain_sum-{algorithm}" / PROGRESS)
    assert {"verdict_right", "verdict_wrong"} <= steps[0].metrics.keys()
    assert steps[0].metrics["verdict_right"] == pytest.approx(steps[0].metrics["score"])
    result = json.loads((measured / "result.json").read_text())
    assert result["gain"]["value"] == pytest.approx(
        result["after"]["value"] - result["before"]["value"]
    )


@pytest.mark.usefixtures("quick")
def test_a_repeated_command_does_nothing_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(tmp_path)) == 0
    said = capsys.readouterr().out.splitlines()
    first = [line for line in said if "95 %" in line]
    assert first
    (trained,) = (tmp_path / "work").glob("toy-chain_sum-*")
    assert said[-1] == f"  chat: {chat_command(trained)}"
    (tmp_path / "toy" / "model.safetensors").unlink()  # answering again would fail
    assert main(asked(tmp_path)) == 0
    again = [line for line in capsys.readouterr().out.splitlines() if "95 %" in line]
    assert [line.split(" ", 1)[1] for line in again] == [line.split(" ", 1)[1] for line in first]
    assert main(asked(tmp_path, **{"machine.threads": 1})) == 0, "it changes no weight"
    capsys.readouterr()
    for command, field, limit in (
        (asked(tmp_path, updates=3), "updates", "2"),
        (asked(tmp_path, max_response_tokens=5), "max_response_tokens", "4"),
        ([*asked(tmp_path), "--items", "11"], "items", "12"),
        ([*asked(tmp_path), "--lora"], "lora", "none"),
    ):
        refused_command(command, capsys, field=field, reason="MISMATCH", limit=limit)
    toy_model(tmp_path / "toy", seed=2)
    _, line = refused_command(asked(tmp_path), capsys, field="model", reason="CHANGED")
    assert str(tmp_path / "toy") in line


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("more", "kind", "field", "reason", "limit"),
    [
        (("--rollout-actors", "2"), ConfigError, "rollout_actors", "CONFLICT", ""),
        (("--workers", "3"), ConfigError, "workers", "OUT_OF_RANGE", "a multiple of 3"),
        (("--set", "update=3"), ConfigError, "update", "UNKNOWN", None),
        (("--set", "data_path=x"), ConfigError, "data_path", "UNKNOWN", None),
        (("--name", "measured"), ConfigError, "name", "IN_USE", ""),
        (("updates", "0"), ConfigError, "updates", "OUT_OF_RANGE", "at least 1"),
        (("--samples", "0"), ConfigError, "samples", "OUT_OF_RANGE", "at least 1"),
        (("max_prompt_tokens", "3"), ConfigError, "max_prompt_tokens", "TOO_SMALL", None),
        (
            ("max_response_tokens", "2000"),
            ConfigError,
            "max_prompt_tokens + max_response_tokens",
            "TOO_LARGE",
            "at most 2048",
        ),
        (("--model", "nowhere"), ConfigError, "model", "MISSING", None),
        (
            ("--model", "pickled"),
            CheckpointError,
            "pytorch_model.bin",
            "UNSUPPORTED",
            "model.safetensors",
        ),
        (("--model", "narrow"), ChatError, "tokenizer.json", "OUT_OF_RANGE", "below 8"),
        (("--task", "nothing"), ConfigError, "task", "UNKNOWN", None),
    ],
)
def test_invalid_options_are_refused_before_sampling(
    more: tuple[str, str],
    kind: type[DetailedError],
    field: str,
    reason: str,
    limit: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    toy_model(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    config = json.loads((toy_model(tmp_path / "narrow") / "config.json").read_text())
    (tmp_path / "narrow" / "config.json").write_text(json.dumps(config | {"vocab_size": 8}))
    is_option = more[0].startswith("--")
    command = asked(tmp_path, *more) if is_option else asked(tmp_path, **{more[0]: more[1]})
    out, line = refused_command(command, capsys, kind, field=field, reason=reason, limit=limit)
    assert out == ""
    assert field in line
    assert not list((tmp_path / "work").rglob("asked.json")), (
        "the name is free for the right command"
    )


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ("--size", "prompts_per_update"),
        ("--updates", "updates"),
        ("--prompt-tokens", "max_prompt_tokens"),
        ("--response-tokens", "max_response_tokens"),
        ("--device", "machine.device"),
    ],
)
def test_earlier_options_are_refused_with_the_field(
    option: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(asked(tmp_path, option, "1"))
    assert f"{option} is now --set {field}=" in capsys.readouterr().err.splitlines()[-1]
    assert field in {one.name for one in settable(GrpoConfig, FIXED)}


@pytest.mark.usefixtures("quick")
def test_two_runs_in_one_folder_have_their_own_measurements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    assert main(asked(tmp_path, "--name", "one", updates=1)) == 0
    assert main(asked(tmp_path, "--name", "two", "--lora", updates=1)) == 0
    assert str(work / "runs" / "two") in capsys.readouterr().out
    one, two = (verify_manifest(work / name) for name in ("one", "two"))
    assert (one.config["lora"], two.config["lora"]["rank"]) == (None, 8)
    assert all((work / "measured" / name / "result.json").exists() for name in ("one", "two"))


def test_samples_and_adapters_are_chosen_by_the_weights_or_by_options(tmp_path: Path) -> None:
    tiny = parse_config(llama_json(300, 32, 2, 4, 2, 64))
    small = parse_config(SHAPES["smollm-135m"].model_json(49_152))

    def made(model: ModelConfig, *words: str) -> GrpoConfig:
        options = parser("rlvr").parse_args([*asked(tmp_path), *words])
        config = commands.make_run(options, model, Path("items"), Path("output"), "")
        assert isinstance(config, GrpoConfig)
        assert (config.vocabulary_rows is None) == (config.lora is None)
        return config

    assert (made(tiny).rows_per_update, made(small).rows_per_update) == (400, 128)
    assert (made(tiny).lora is None, made(small).lora is None) == (True, False)
    assert "40 updates of 128 responses; trains adapters of rank 8" in commands.plan_text(
        replace(made(small), updates=40)
    )
    for model in (tiny, small):
        full, adapted = made(model, "--no-lora"), made(model, "--lora")
        assert full.rows_per_update == adapted.rows_per_update
        assert (full.lora is None, adapted.lora is None) == (True, False)
    size = ("--set", "prompts_per_update=4", "--set", "samples_per_prompt=25")
    assert made(tiny, *size).rows_per_update == 100


def test_learning_rates_are_ten_times_as_high_for_adapters() -> None:
    tiny = parse_config(llama_json(300, 32, 2, 4, 2, 64))
    small = parse_config(SHAPES["smollm-135m"].model_json(49_152))
    for model in (tiny, small):
        full, adapted = (commands.training_mode(model, lora)[0] for lora in (False, True))
        assert adapted == pytest.approx(10 * full, rel=0.05)
    mode = commands.training_mode(small, None)[1]
    assert DESCRIBED["vocabulary_rows"].startswith(f"{mode['vocabulary_rows']};")
    assert DESCRIBED["lora"].startswith(f"rank {mode['lora'].rank};")
    # Measured: docs/decisions/nano.md, docs/decisions/verifiable-rewards.md.
    assert commands.training_mode(tiny, None)[0] == 3e-4
    assert commands.training_mode(small, None)[0] == pytest.approx(1e-4, rel=0.3)


def test_the_help_shows_the_values_of_the_command() -> None:
    lines = {
        line.split()[0]: line.partition(" = ")[2]
        for line in settable_fields().splitlines()
        if " = " in line
    }
    assert DESCRIBED.items() <= lines.items()
    shown = ("prompts_per_update", "samples_per_prompt", "minibatch_rows")
    numbers = {name: re.findall(r"\d+", lines[name])[:2] for name in shown}
    assert numbers == {
        name: [str(getattr(config_of("grpo", size), name)) for size in (LARGE, TINY)]
        for name in shown
    }
    assert (lines["updates"], lines["max_response_tokens"], lines["lora.rank"]) == ("40", "64", "8")


def test_code_is_scored_in_a_sandbox_and_text_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(stage, "open_sandbox", lambda _: opened.append("sandbox"))
    code, text = (
        Item("programs", "Write f.", Calls("f", ("[1]",), ("1",))),
        Item("sums", "1 + 1", Mathematics("2")),
    )
    with (
        stage.open_scorer([text]) as scorer,
        refused(VerificationError, field="sandbox", reason="MISSING"),
    ):
        scorer.score(code, "def f(x): return x")
    assert opened == []
    with stage.open_scorer([text, code]):
        assert opened == ["sandbox"]


def test_the_gain_is_measured_by_answer() -> None:
    before = Measured("a", 2, (0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0), {})
    after = Measured("b", 2, (1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0), {})
    gain = after.gain(before)
    assert gain.value == pytest.approx(3 / 8)
    assert gain.clusters == 4
    # Items gained 1, 1, 0, 1 of two answers each: deviations 1/4, 1/4, -3/4, 1/4 from their mean of
    # 3/4.
    assert gain.error == pytest.approx((12 / 16 / 64 * 4 / 3) ** 0.5)
    assert change_text(gain) == "0.375 [0.130, 0.620]"


def test_the_interval_of_a_share_is_within_zero_and_one() -> None:
    # Of 20 items none is right: Wilson's bound is 1.96² / (20 + 1.96²), though there were 40
    # answers.
    assert share_text(Measured("a", 2, (0.0,) * 40, {}).right) == "0.000 [0.000, 0.161]"
    assert share_text(Measured("a", 2, (1.0,) * 40, {}).right) == "1.000 [0.839, 1.000]"
    assert change_text(
        Measured("b", 1, (1.0, 1.0, 0.0), {}).gain(Measured("a", 1, (0.0, 0.0, 0.0), {}))
    ).endswith("1.000]")


def test_ppo_and_grpo_sample_as_many_responses() -> None:
    for size in (LARGE, TINY):
        made = [config_of(algorithm, size) for algorithm in ("grpo", "ppo")]
        assert [type(config) for config in made] == [GrpoConfig, PpoConfig]
        assert len({config.rows_per_update for config in made}) == 1
    warm = replace(made[0], temperature=0.7)
    assert commands.sampling(warm, 2).temperature == 0.7


def test_held_out_items_are_refused_for_training(tmp_path: Path) -> None:
    held_out = commands.make_items(commands.ItemRequest("chain_sum", 1, 0, Split.HELD_OUT, 0))
    write_items(held_out, tmp_path / "items.jsonl")
    config = replace(config_of("grpo", QUICK), data_path=tmp_path / "items.jsonl")
    config = replace(config, output_directory=tmp_path / "o")
    with refused(ExampleError, field="prompts.1", reason="CONFLICT"):
        stage.run(config, None)  # type: ignore[arg-type]
