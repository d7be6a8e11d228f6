"""Runs from the command line whose inputs change between a stop and the next start."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.refused_commands import refused_command
from tests.training.toys import sft_rows, toy_model, write_lines
from training.__main__ import main
from training.artifacts.inputs import hash_input
from training.artifacts.manifest import hash_file, read_manifest
from training.data.token_shards import ShardConfig, write_shards
from training.stage_record import RECORD, StageRecord, read_record
from training.stages import sft
from training.tokenization.byte_pairs import train_tokenizer

RECIPE = """
from training.planning.plan import PlannedStage
from training.planning.work import DataSize
from training.recipes.open_models.recipes import OpenRecipe, Places
from training.runtime.context import Lineage, Machine
from training.stages.sft import SftConfig


def recipe(places: Places) -> OpenRecipe:
    first, second = places.output / "first", places.output / "second"
    machine, size = Machine(threads=1), DataSize(rows=60, prompt_tokens=10, response_tokens=4)
    one = SftConfig(
        places.models / "toy", places.data / "sft.jsonl", first, Lineage("first"), machine=machine
    )
    two = SftConfig(first, places.data / "more.jsonl", second, Lineage("second"), machine=machine)
    stages = (PlannedStage("one", one, size), PlannedStage("two", two, size))
    return OpenRecipe("mine", 1, "", stages)
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Write a toy model and rows for SFT."""
    toy_model(tmp_path / "toy")
    write_lines(tmp_path / "sft.jsonl", sft_rows(40))
    return tmp_path


def command(files: Path, *more: str) -> list[str]:
    data = ["--data", str(files / "sft.jsonl"), "--work", str(files / "work")]
    fields = ["--set", "machine.threads=1", "--set", "batch_rows=8"]
    return ["sft", "--model", str(files / "toy"), *data, "--name", "g1", *fields, *more]


def recorded(directory: Path) -> StageRecord:
    record = read_record(directory)
    assert record is not None
    return record


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM to this process during this step of SFT."""
    count, steps = sft.count_tokens, list[int]()

    def counted(examples: Any) -> int:
        steps.append(1)
        if len(steps) == step:
            signal.raise_signal(signal.SIGTERM)
        return count(examples)

    monkeypatch.setattr(sft, "count_tokens", counted)


def change_data(files: Path) -> Path:
    return write_lines(files / "sft.jsonl", sft_rows(48))


def change_data_alone(files: Path) -> Path:
    """Replace a response by another of equal length; keep size and modification time."""
    path = files / "sft.jsonl"
    written = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace('"response": "tree"', '"response": "bird"'))
    os.utime(path, ns=(written, written))
    return path


def change_weights(files: Path) -> Path:
    """Replace the weights of the model; its manifest stays."""
    other = toy_model(files / "other", seed=2)
    (files / "toy" / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    return files / "toy"


def change_tokenizer(files: Path) -> Path:
    path = files / "toy" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    return files / "toy"


CHANGES = [
    (change_data, "data_path"),
    (change_weights, "model_directory"),
    (change_tokenizer, "model_directory"),
]


@pytest.mark.parametrize(("change", "field"), CHANGES)
def test_stopped_run_does_not_continue_with_a_changed_input(
    files: Path,
    change: Callable[[Path], Path],
    field: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_after(3, monkeypatch)
    assert main(command(files)) == 128 + signal.SIGTERM
    run = files / "work" / "runs" / "g1"
    assert (run / "notice-000003").is_dir()
    before, was = (run / RECORD).read_bytes(), recorded(run).data[field]
    path = change(files)
    now = hash_input(path)
    assert now is not None
    _, line = refused_command(command(files), capsys, field=field, reason="CHANGED", limit=was[:12])
    assert all(text in line for text in (f"{path} ", was[:12], now[:12], "name", str(run)))
    assert was not in line, "hashes are short"
    assert (run / RECORD).read_bytes() == before, "the record of the first start stays"


@pytest.mark.parametrize(("change", "field"), CHANGES)
def test_finished_name_with_a_changed_input_is_refused(
    files: Path,
    change: Callable[[Path], Path],
    field: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(files)) == 0
    made = read_manifest(files / "work" / "g1")
    assert main(command(files)) == 0
    assert "g1: is already finished, with the same" in capsys.readouterr().out
    was = recorded(files / "work" / "runs" / "g1").data[field]
    change(files)
    refused_command(command(files), capsys, field=field, reason="CHANGED", limit=was[:12])
    assert read_manifest(files / "work" / "g1") == made


def test_run_without_a_saved_step_starts_again_with_changed_data(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sft, "count_tokens", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command(files)) == 130
    run = files / "work" / "runs" / "g1"
    assert recorded(run).data["data_path"] == hash_file(files / "sft.jsonl")
    changed = change_data(files)
    assert main(command(files)) == 0
    record = recorded(run)
    assert record.data["data_path"] == hash_file(changed)
    assert len(record.starts) == 1


def test_stopped_run_continues_with_a_copy_of_its_inputs(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(3, monkeypatch)
    assert main(command(files)) == 128 + signal.SIGTERM
    for path in (files / "sft.jsonl", *(files / "toy").iterdir()):
        os.utime(path, ns=(1, 1))
    (files / "toy" / "notes.md").write_text("no part of the model")
    assert main(command(files)) == 0
    assert len(recorded(files / "work" / "runs" / "g1").starts) == 2


def test_recipe_refuses_a_finished_stage_whose_parent_is_trained_again(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "mine.py").write_text(RECIPE)
    write_lines(files / "more.jsonl", sft_rows(20))
    work = files / "work"
    places = ["--models", str(files), "--data", str(files), "--work", str(work)]
    asked = ["run", str(files / "mine.py"), *places]
    assert main(asked) == 0
    change_data(files)
    refused_command(asked, capsys, field="data_path", reason="CHANGED")
    for folder in (work / "runs" / "one", work / "first"):
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
    _, line = refused_command(asked, capsys, field="model_directory", reason="CHANGED")
    assert str(work / "first") in line
    assert str(work / "second") in line


def test_pretraining_refuses_other_shards_in_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, shards, work = tmp_path / "own", tmp_path / "shards", tmp_path / "work"
    texts = [f"{n} good tree house river stone cloud bird" for n in range(300)]
    train_tokenizer(texts, 300, own)

    def make(chosen: list[str]) -> None:
        source = write_lines(tmp_path / "mine.jsonl", [{"text": text} for text in chosen])
        write_shards(ShardConfig((source,), own, shards, 0.1))

    make(texts)
    fields = ["steps=2", "batch_rows=2", "microbatch_rows=2", "machine.threads=1"]
    read = ["--shards", str(shards), "--tokenizer", str(own), "--work", str(work)]
    asked = ["pretrain", *read]
    asked += [word for field in fields for word in ("--set", field)]
    assert main(asked) == 0
    assert main(asked) == 0
    for file in shards.iterdir():
        file.unlink()
    make(texts[:250])
    _, line = refused_command(asked, capsys, field="shards_directory", reason="CHANGED")
    assert str(shards) in line


def test_pretraining_refuses_a_changed_text_before_it_is_tokenised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, work = tmp_path / "mine.jsonl", tmp_path / "work"
    lines = [{"text": f"{n} good tree house river stone cloud bird"} for n in range(300)]
    write_lines(source, lines)
    fields = ["steps=2", "batch_rows=2", "microbatch_rows=2", "machine.threads=1"]
    asked = ["pretrain", "--shape", "one_million", "--texts", str(source), "--work", str(work)]
    asked += ["--vocabulary", "300", *(word for field in fields for word in ("--set", field))]
    assert main(asked) == 0
    was, made = hash_file(source), sorted(path.name for path in work.iterdir())
    assert main(asked) == 0
    write_lines(source, lines[:-1])
    _, line = refused_command(asked, capsys, field="texts", reason="CHANGED", limit=was[:12])
    assert str(source) in line
    assert hash_file(source)[:12] in line
    assert sorted(path.name for path in work.iterdir()) == made


def test_record_of_an_earlier_version_is_not_compared(files: Path) -> None:
    assert main(command(files)) == 0
    path = files / "work" / "runs" / "g1" / RECORD
    fields = json.loads(path.read_text())
    del fields["is_comparable"]
    path.write_text(json.dumps({**fields, "hashed": [], "data": {"data_path": "0" * 64}}))
    assert main(command(files)) == 0
