"""What a stage was begun with: data is read for its hash once, and again only where it was written to."""

import json
import os
from pathlib import Path

import pytest

from tests.training.toys import write_lines
from training.cluster import stage_record
from training.cluster.stage_record import RECORD, note_start, read_record
from training.manifest import MANIFEST, hash_file, write_manifest
from training.stages.context import Lineage
from training.stages.sft import SftConfig


@pytest.fixture
def config(tmp_path: Path) -> SftConfig:
    (tmp_path / "model").mkdir()
    write_manifest(tmp_path / "model", kind="model", version="model")
    data = write_lines(tmp_path / "sft.jsonl", [{"text": "good"}])
    return SftConfig(tmp_path / "model", data, tmp_path / "out", Lineage("out"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read for their hashes."""
    names: list[str] = []

    def noted(path: Path) -> str:
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(stage_record, "hash_file", noted)
    return names


def start(config: SftConfig, directory: Path) -> dict[str, str]:
    note_start("sft", config, directory, workers=1)
    record = read_record(directory)
    assert record is not None
    return dict(record.data)


def test_a_stage_that_goes_on_reads_no_data_for_its_record(config: SftConfig, tmp_path: Path, read: list[str]) -> None:
    first = start(config, tmp_path)
    assert read == [MANIFEST, "sft.jsonl"]
    assert start(config, tmp_path) == first == start(config, tmp_path)
    assert read == [MANIFEST, "sft.jsonl"]
    assert first["data_path"] == hash_file(config.data_path)


@pytest.mark.parametrize(("text", "later_ns"), [('{"text": "evil"}\n', 1), ('{"text": "better"}\n', 0)])
def test_a_file_that_was_written_to_is_noticed(
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


def test_another_file_in_its_place_is_noticed_though_it_is_as_old_and_as_long(
    config: SftConfig, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(config.data_path.read_text().replace("good", "evil"))
    written = config.data_path.stat().st_mtime_ns
    os.utime(other, ns=(written, written))
    start(config, tmp_path)
    moved = SftConfig(config.model_directory, other, config.output_directory, config.lineage)
    assert start(moved, tmp_path)["data_path"] == hash_file(other)


def test_a_record_that_keeps_no_files_yet_is_read(config: SftConfig, tmp_path: Path, read: list[str]) -> None:
    start(config, tmp_path)
    fields = json.loads((tmp_path / RECORD).read_text())
    del fields["hashed"]
    (tmp_path / RECORD).write_text(json.dumps(fields))
    assert start(config, tmp_path)["data_path"] == hash_file(config.data_path)
    assert read == [MANIFEST, "sft.jsonl"] * 2
    record = read_record(tmp_path)
    assert record is not None
    assert len(record.starts) == 2
