"""Records of stages: hashes of their inputs, and the runs that may continue."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.toys import write_lines
from training.artifacts import inputs
from training.artifacts.manifest import hash_file, write_manifest
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.runtime.context import Lineage
from training.stage_record import (
    SCRATCH,
    check_same_run,
    read_record,
    record_start,
    remove_unsaved_run,
    saved_step,
)
from training.stages.sft import SftConfig


@pytest.fixture
def config(tmp_path: Path) -> SftConfig:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write_manifest(tmp_path / "model", kind="model", version="model")
    data = write_lines(tmp_path / "sft.jsonl", [{"text": "good"}])
    return SftConfig(
        model_directory=tmp_path / "model",
        data_path=data,
        output_directory=tmp_path / "out",
        lineage=Lineage("out"),
    )


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that a new process reads for their hashes."""
    names: list[str] = []

    def noted(path: Path) -> str:
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(inputs, "hash_file", noted)
    monkeypatch.setattr(inputs, "_hashes", {})
    return names


def start(config: SftConfig, directory: Path) -> dict[str, str]:
    record_start("sft", config, directory, workers=1)
    record = read_record(directory)
    assert record is not None
    return dict(record.data)


def test_unchanged_data_is_read_once_per_process(
    config: SftConfig, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(config, tmp_path)
    assert read == ["config.json", "sft.jsonl"]
    keep(3)(tmp_path, config)
    check_same_run(config, tmp_path)
    assert start(config, tmp_path) == first
    assert read == ["config.json", "sft.jsonl"]
    assert first["data_path"] == hash_file(config.data_path)
    monkeypatch.setattr(inputs, "_hashes", {})
    assert start(config, tmp_path) == first
    assert read == ["config.json", "sft.jsonl"], "a run that continues is not recorded again"
    check_same_run(config, tmp_path)
    assert read == ["config.json", "sft.jsonl"] * 2


def test_replaced_file_of_equal_size_and_time_is_refused_by_another_process(
    config: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(config, tmp_path)
    keep(3)(tmp_path, config)
    written = config.data_path.stat().st_mtime_ns
    config.data_path.write_text(config.data_path.read_text().replace("good", "evil"))
    os.utime(config.data_path, ns=(written, written))
    monkeypatch.setattr(inputs, "_hashes", {})
    with refused(ConfigError, field="data_path", reason="CHANGED"):
        check_same_run(config, tmp_path)


@pytest.mark.parametrize(
    ("text", "later_ns"), [('{"text": "evil"}\n', 1), ('{"text": "better"}\n', 0)]
)
def test_changed_file_is_hashed_again(
    config: SftConfig, tmp_path: Path, read: list[str], text: str, later_ns: int
) -> None:
    first = start(config, tmp_path)
    written = config.data_path.stat().st_mtime_ns
    config.data_path.write_text(text)
    os.utime(config.data_path, ns=(written, written + later_ns))
    second = start(config, tmp_path)
    assert read[2:] == ["sft.jsonl"]
    assert second["data_path"] == hash_file(config.data_path) != first["data_path"]
    assert second["model_directory"] == first["model_directory"]


def test_replaced_file_of_equal_age_and_size_is_detected(config: SftConfig, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(config.data_path.read_text().replace("good", "evil"))
    written = config.data_path.stat().st_mtime_ns
    os.utime(other, ns=(written, written))
    start(config, tmp_path)
    moved = replace(config, data_path=other)
    assert start(moved, tmp_path)["data_path"] == hash_file(other)


def keep(step: int) -> Callable[[Path, SftConfig], None]:
    return lambda run, _: (run / f"step-{step:06d}").mkdir()


def publish(_: Path, config: SftConfig) -> None:
    config.output_directory.mkdir()
    write_manifest(config.output_directory, kind="model", version="out")


def put_in_bucket(run: Path, _: SftConfig) -> None:
    (run / SCRATCH).mkdir()


@pytest.mark.parametrize("then", [keep(1), publish, put_in_bucket])
def test_run_with_saved_steps_rejects_another_config_by_field(
    config: SftConfig, tmp_path: Path, then: Callable[[Path, SftConfig], None]
) -> None:
    run = tmp_path / "f1"
    run.mkdir()
    record_start(
        "f1", replace(config, optimizer=OptimizerConfig(learning_rate=0.5)), run, workers=1
    )
    then(run, config)
    with refused(
        ConfigError, field="optimizer.learning_rate", reason="MISMATCH", limit="0.5"
    ) as caught:
        check_same_run(config, run, other="name")
    assert "f1" in str(caught.value)
    assert "0.0001" in str(caught.value)
    remove_unsaved_run(config, run)
    assert read_record(run) is not None


def test_run_without_saved_steps_starts_again_with_another_config(
    config: SftConfig, tmp_path: Path
) -> None:
    run = tmp_path / "f1"
    run.mkdir()
    record_start("f1", config, run, workers=1)
    keep(0)(run, config)
    (run / "progress.jsonl").write_text("{}\n")
    check_same_run(config, run)
    remove_unsaved_run(config, run)
    assert (run / "progress.jsonl").exists(), "the same run goes on"
    other = replace(config, epochs=3)
    check_same_run(other, run)
    remove_unsaved_run(other, run)
    assert not run.exists()


def test_error_names_fields_set_by_the_user_first(config: SftConfig, tmp_path: Path) -> None:
    record_start("sft", config, tmp_path, workers=1)
    keep(7)(tmp_path, config)
    assert saved_step(tmp_path) == 7
    other = replace(config, batch_rows=4, epochs=3, lora=LoraConfig(), checkpoint_every_steps=3)
    for asked, field in (
        ((), "batch_rows"),
        (("epochs",), "epochs"),
        (("lora.rank", "epochs"), "lora"),
    ):
        with refused(ConfigError, field=field, reason="MISMATCH"):
            check_same_run(other, tmp_path, asked)
    check_same_run(replace(config, checkpoint_every_steps=3), tmp_path)


def test_output_of_another_run_is_rejected(config: SftConfig, tmp_path: Path) -> None:
    publish(tmp_path, config)
    with refused(ConfigError, field="output_directory", reason="EXISTS") as caught:
        check_same_run(config, tmp_path / "runs", other="name")
    assert str(config.output_directory) in str(caught.value)
