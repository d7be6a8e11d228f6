"""Runs that fail before their first step leave no folder; runs with a step keep theirs."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.training.refused_commands import refused_command
from tests.training.toys import context_free_model, sft_rows, toy_model, user, write_lines
from training.__main__ import main
from training.errors import DetailedError
from training.optim.gradients import NonFiniteError
from training.stages import sft
from training.tokenization.byte_pairs import train_tokenizer

PAIRS = [
    {
        "messages": user(f"say {i}"),
        "chosen": "good tree",
        "rejected": "bad stone",
        "prompt_id": str(i),
    }
    for i in range(20)
]
PROMPTS = [{"messages": pair["messages"]} for pair in PAIRS]
THUMBS = [
    {"messages": user(f"say {i}"), "prompt_id": str(i), "response": "tree", "thumb": "up"}
    for i in range(20)
]
SMALL = ("max_prompt_tokens=48", "max_response_tokens=8", "updates=2")


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def damaged_weights(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def infinite_weights(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    changed = {name: tensor * float("inf") for name, tensor in weights.items()}
    save_file(changed, model / "model.safetensors")


def few_positions(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100}))


def nothing(model: Path) -> None:
    """Keep the model as it is."""


def other_tokenizer(model: Path) -> None:
    """Put a reward model with another tokenizer beside the model."""
    judge = toy_model(model.parent / "judge")
    train_tokenizer(["other words entirely"] * 50, 280, judge)
    (judge / "reward_model.json").write_text("{}")


REFUSALS: list[tuple[str, Sequence[Mapping[str, Any]] | bytes, tuple[str, ...], Any]] = [
    ("sft", PAIRS, (), nothing),
    ("sft", b"not JSON\n", (), nothing),
    ("sft", b'{"messages": "\xff"}\n', (), nothing),
    ("sft", b"", (), nothing),
    ("sft", [{**row, "weight": 0} for row in sft_rows(20)], (), nothing),
    ("sft", sft_rows(20), ("max_tokens=2",), nothing),
    ("sft", sft_rows(20), ("max_tokens=101",), few_positions),
    ("sft", sft_rows(20), ("held_out_fraction=0.999",), nothing),
    ("sft", sft_rows(20), ("parallelism.shard=2",), nothing),
    ("sft", sft_rows(20), ("machine.device=cuda:7",), nothing),
    ("sft", sft_rows(20), (), no_tokenizer),
    ("sft", sft_rows(20), (), no_weights),
    ("sft", sft_rows(20), (), damaged_weights),
    ("sft", sft_rows(20), (), infinite_weights),
    ("reward-model", sft_rows(20), (), nothing),
    ("reward-model", [{**pair, "rejected": "good tree"} for pair in PAIRS], (), nothing),
    ("dpo", [{**pair, "tie": True} for pair in PAIRS], (), nothing),
    ("dpo", PAIRS[:1], (), nothing),
    ("kto", THUMBS, (), nothing),
    ("kto", THUMBS, ("off_policy.versions=v1",), nothing),
    ("ppo", PROMPTS, (*SMALL, "minibatch_rows=7"), other_tokenizer),
    ("ppo", PROMPTS, (*SMALL, "prompts_per_update=4", "minibatch_rows=4"), other_tokenizer),
    ("grpo", [{**row, "task": "{}"} for row in PROMPTS], (*SMALL, "prompts_per_update=4"), nothing),
]


@pytest.mark.parametrize(("stage", "rows", "fields", "spoil"), REFUSALS)
def test_refused_run_leaves_no_folder(
    stage: str,
    rows: Sequence[Mapping[str, Any]] | bytes,
    fields: tuple[str, ...],
    spoil: Callable[[Path], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "rows.jsonl"
    if isinstance(rows, bytes):
        data.write_bytes(rows)
    else:
        write_lines(data, rows)
    model, work = toy_model(tmp_path / "toy"), tmp_path / "new" / "work"
    spoil(model)
    asked = [stage, "--model", str(model), "--data", str(data), "--work", str(work)]
    if (tmp_path / "judge").exists():
        asked += ["--reward-model", str(tmp_path / "judge")]
    asked += [word for field in ("machine.threads=1", *fields) for word in ("--set", field)]
    assert main(asked) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert not work.parent.exists()

    # Folders that existed before stay.
    kept = work / "runs" / f"toy-{stage}"
    kept.mkdir(parents=True)
    (kept / "notes.txt").write_text("mine")
    assert main(asked) == 1
    assert (kept / "notes.txt").exists()


def test_run_that_fails_after_a_step_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = toy_model(tmp_path / "toy"), write_lines(tmp_path / "rows.jsonl", sft_rows(40))
    work = tmp_path / "work"
    count, steps = sft.count_tokens, list[int]()

    def counted(examples: Any) -> int:
        steps.append(1)
        if len(steps) == 3:
            raise DetailedErrorOfStep("step 3 failed")
        return count(examples)

    monkeypatch.setattr(sft, "count_tokens", counted)
    asked = ["sft", "--model", str(model), "--data", str(data), "--work", str(work)]
    assert main([*asked, "--set", "batch_rows=8", "--set", "machine.threads=1"]) == 1
    run = work / "runs" / "toy-sft"
    assert len((run / "progress.jsonl").read_text().splitlines()) == 2
    assert "step 3 failed" in (run / "report.html").read_text()


class DetailedErrorOfStep(DetailedError, ValueError):
    """An error in the middle of a run."""


def test_refused_pretraining_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    missing = tmp_path / "folder" / "nope"
    for command in (["pretrain", "--shape", "one_million"], ["scaling"]):
        asked = [*command, "--texts", str(missing), "--work", str(work)]
        assert main(asked) == 1
        assert str(missing) in capsys.readouterr().err
        assert not work.exists()
    write_lines(tmp_path / "one.jsonl", [{"text": "a single text"}])
    asked = ["pretrain", "--shape", "one_million", "--texts", str(tmp_path / "one.jsonl")]
    asked += ["--work", str(work), "--set", "steps=2", "--set", "context_tokens=4"]
    _, line = refused_command(asked, capsys, field="evaluate_every_steps", reason="EMPTY")
    assert "--texts" in line
    assert not work.exists()


def sft_of_answers(tmp_path: Path, final_norm: float) -> list[str]:
    """Return the command of a single step on rows whose answers share no token, half held out."""
    model = context_free_model(tmp_path / "toy", final_norm=final_norm)
    rows = [{"messages": user(f"say {i}"), "response": chr(ord("0") + i) * 10} for i in range(20)]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    asked = ["sft", "--model", str(model), "--data", str(data), "--work", str(tmp_path / "work")]
    fields = ("machine.threads=1", "batch_rows=20", "held_out_fraction=0.5")
    return [*asked, *(word for field in fields for word in ("--set", field))]


def test_run_that_got_worse_warns_and_exits_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step raises the logits of the learned answers and lowers all others, each by about 32.

    Adam moves each weight by the rate of 1, and the absolute values of a hidden state add up to
    about 32, the number of dimensions. Before, each token costs the logarithm of the vocabulary.
    """
    asked = sft_of_answers(tmp_path, final_norm=1.0)
    assert main([*asked, "--set", "optimizer.learning_rate=1"]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning: " in line]
    assert len(warnings) == 2
    assert "held-out loss" in warnings[0]
    assert "held-out examples" in warnings[1]
    run = tmp_path / "work" / "runs" / "toy-sft"
    page = (run / "report.html").read_text()
    assert all(line.partition("warning: ")[2] in page for line in warnings)
    steps = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1]
    assert steps[0]["metrics"]["loss"] < steps[0]["metrics"]["held_out_loss"] < math.inf


def test_gradient_that_overflows_is_refused_with_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hidden states of 1e30 give a finite loss; the squares of their gradients exceed float32."""
    asked = sft_of_answers(tmp_path, final_norm=1e30)
    _, line = refused_command(asked, capsys, NonFiniteError, field="gradient", reason="NOT_FINITE")
    assert "step 1, loss 5.68" in line  # the logarithm of 294 tokens
    assert not (tmp_path / "work" / "models").exists()
