"""Training on a task with computed verdicts: the command, and the measured gain."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.refused_commands import refused_command
from tests.training.toys import toy_model
from training.__main__ import main
from training.artifacts.manifest import verify_manifest
from training.data.chat import ChatError
from training.data.examples import read_prompts
from training.data.formats.fields import ExampleError
from training.decoding.arguments import chat_command
from training.errors import ConfigError, DetailedError
from training.model.tensor_files import CheckpointError
from training.progress_log import PROGRESS, read_progress
from training.recipes.rlvr import commands, recipe, stage
from training.recipes.rlvr.held_out import Measured, change_text, share_text
from training.recipes.rlvr.recipe import ALGORITHMS, SIZES, Lengths, Size
from training.stages.grpo import GrpoConfig
from training.stages.policy_config import FIRST_UPDATE
from training.stages.ppo import PpoConfig
from training.verification.checks import Calls, Mathematics, Outcome, Verdict, VerificationError
from training.verification.items import Item, Split, parse_items, write_items
from training.verification.scorer import Scorer
from training.verification.workers import Workers

TINY = Size(None, None, 3e-3, prompts=4, samples=4, minibatch_rows=8)


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

    monkeypatch.setitem(SIZES, "tiny", TINY)
    monkeypatch.setattr(commands, "open_scorer", opened)
    monkeypatch.setattr(stage, "open_scorer", opened)


def asked(tmp_path: Path, *more: str) -> list[str]:
    model = tmp_path / "toy"
    if not model.exists():
        toy_model(model)
    sizes = [
        "--updates",
        "2",
        "--items",
        "12",
        "--held-out",
        "6",
        "--prompt-tokens",
        "500",
        "--response-tokens",
        "4",
    ]
    wanted = [
        "rlvr",
        "--task",
        "chain_sum",
        "--level",
        "0",
        "--model",
        str(model),
        "--size",
        "tiny",
        *sizes,
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
    learned = {item.prompt for item in parse_items(read_prompts(work / "items.jsonl"))}
    assert all(
        item.split is Split.TRAIN for item in parse_items(read_prompts(work / "items.jsonl"))
    )
    assert len(learned) == 12
    steps = read_progress(work / "runs" / algorithm / PROGRESS)
    assert {"verdict_right", "verdict_wrong"} <= steps[0].metrics.keys()
    assert steps[0].metrics["verdict_right"] == pytest.approx(steps[0].metrics["score"])
    result = json.loads((work / "result.json").read_text())
    assert result["gain"]["value"] == pytest.approx(
        result["after"]["value"] - result["before"]["value"]
    )


@pytest.mark.usefixtures("quick")
def test_a_repeated_command_does_nothing_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(tmp_path)) == 0
    *_, first, _, chat = capsys.readouterr().out.splitlines()
    (trained,) = (tmp_path / "work").glob("toy-chain_sum-*")
    assert chat == f"  chat: {chat_command(trained)}"
    (tmp_path / "toy" / "model.safetensors").unlink()  # answering again would fail
    assert main(asked(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines()[-3].split(" ", 1)[1] == first.split(" ", 1)[1]
    refused_command(asked(tmp_path, "--updates", "3"), capsys, field="work", reason="MISMATCH")
    toy_model(tmp_path / "toy", seed=2)
    _, line = refused_command(asked(tmp_path), capsys, field="model", reason="CHANGED")
    assert str(tmp_path / "toy") in line


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("more", "kind", "field", "reason", "limit"),
    [
        (("--rollout-actors", "2"), ConfigError, "rollout-actors", "CONFLICT", ""),
        (("--workers", "3"), ConfigError, "workers", "OUT_OF_RANGE", "a multiple of 3"),
        (("--workers", "-1"), ConfigError, "workers", "OUT_OF_RANGE", "at least 0"),
        (("--updates", "0"), ConfigError, "updates", "OUT_OF_RANGE", "at least 1"),
        (("--samples", "0"), ConfigError, "samples", "OUT_OF_RANGE", "at least 1"),
        (("--prompt-tokens", "3"), ConfigError, "prompt-tokens", "TOO_SMALL", None),
        (
            ("--response-tokens", "2000"),
            ConfigError,
            "prompt-tokens + response-tokens",
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
    out, line = refused_command(
        asked(tmp_path, *more), capsys, kind, field=field, reason=reason, limit=limit
    )
    assert out == ""
    assert field in line
    assert not (tmp_path / "work" / "asked.json").exists(), (
        "the folder is free for the right command"
    )


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


def test_all_sizes_give_valid_configs(tmp_path: Path) -> None:
    for size in SIZES.values():
        made = [
            make(size, tmp_path / "m", tmp_path / "d", tmp_path / "o", 5, Lengths(), "")
            for make in ALGORITHMS.values()
        ]
        assert [type(config) for config in made] == [GrpoConfig, PpoConfig]
        assert (
            len({config.rows_per_update for config in made}) == 1
        )  # as many responses for PPO as for GRPO
    assert recipe.sampling(Lengths(), 2).temperature == made[0].temperature


def test_held_out_items_are_refused_for_training(tmp_path: Path) -> None:
    held_out = commands.make_items(commands.ItemRequest("chain_sum", 1, 0, Split.HELD_OUT, 0))
    write_items(held_out, tmp_path / "items.jsonl")
    config = ALGORITHMS["grpo"](
        TINY, tmp_path, tmp_path / "items.jsonl", tmp_path / "o", 1, Lengths(), ""
    )
    with refused(ExampleError, field="prompts.1", reason="CONFLICT"):
        stage.run(config, None)  # type: ignore[arg-type]
