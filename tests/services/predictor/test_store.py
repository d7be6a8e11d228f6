"""Checks of model directories, and the caches on disk."""

import json
import os
from functools import partial
from pathlib import Path

import pytest

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.conversion import IR_NAME
from services.predictor.graph.weights import WeightFormat
from services.predictor.ir_cache import IrCache, convert_in_process
from services.predictor.manifest import DigestCache, check_manifest
from services.predictor.repository import Journal
from services.predictor.text.codec import TextCodec
from services.predictor.version import read_end_ids
from tests.services.predictor.model_directories import write_manifest
from tests.support.errors import refused


@pytest.fixture
def digests(tmp_path: Path) -> DigestCache:
    return DigestCache(tmp_path / "digests.json")


@pytest.fixture
def copy(first_model: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "copy"
    directory.mkdir()
    for path in first_model.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return directory


def test_a_complete_directory_is_accepted(first_model: Path, digests: DigestCache) -> None:
    manifest = check_manifest(first_model, "tiny-1", digests)
    assert "model.safetensors" in manifest.files
    assert len(manifest.digest) == 64


@pytest.mark.parametrize(
    ("changes", "field", "reason", "limit"),
    [
        ({"format": 2}, "format", "UNSUPPORTED", "1"),
        ({"kind": "adapter"}, "kind", "UNSUPPORTED", "model"),
        ({"version": "another"}, "version", "MISMATCH", "tiny-1"),
        ({"files": ["config.json"]}, "files", "MALFORMED", ""),
        ({"files": {"../config.json": "0"}}, "files", "OUT_OF_RANGE", ""),
        ({"files": {"/config.json": "0"}}, "files", "OUT_OF_RANGE", ""),
        ({"files": {"adapter//config.json": "0"}}, "files", "OUT_OF_RANGE", ""),
        (
            {"files": {}},
            "files",
            "INCOMPLETE",
            "config.json, model.safetensors, tokenizer.json, tokenizer_config.json",
        ),
        ({"files": {"weights.bin": "0"}}, "weights.bin", "MISSING", ""),
    ],
)
def test_an_invalid_manifest_is_refused_by_field(
    copy: Path, digests: DigestCache, changes: dict, field: str, reason: str, limit: str
) -> None:
    write_manifest(copy, **{"version": "tiny-1", **changes})
    with refused(ModelRefusedError, field=field, reason=reason, limit=limit) as caught:
        check_manifest(copy, "tiny-1", digests)
    assert field in caught.value.text
    assert limit in caught.value.text


def test_missing_and_changed_files_are_named(
    copy: Path, digests: DigestCache, tmp_path: Path
) -> None:
    check_manifest(copy, "tiny-1", digests)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with refused(ModelRefusedError, field="model.safetensors", reason="MISMATCH"):
        check_manifest(copy, "tiny-1", digests)
    (copy / "tokenizer.json").unlink()
    with refused(ModelRefusedError, field="tokenizer.json", reason="MISSING"):
        check_manifest(copy, "tiny-1", digests)
    (copy / "manifest.json").unlink()
    with refused(ModelRefusedError, field="manifest.json", reason="MISSING"):
        check_manifest(copy, "tiny-1", digests)
    with refused(ModelRefusedError, field="directory", reason="MISSING"):
        check_manifest(tmp_path / "nowhere", "tiny-1", digests)


def test_a_digest_is_cached_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    first = DigestCache(tmp_path / "digests.json").sha256(file)
    os.truncate(file, 3)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    remembered = DigestCache(tmp_path / "digests.json")
    assert remembered.sha256(file) == first, "equal size and time, so not hashed again"
    os.utime(file, ns=(2, 2))
    assert remembered.sha256(file) != first


def test_graphs_are_converted_once_and_the_least_recently_used_are_deleted(
    first_model: Path, second_model: Path, tmp_path: Path, digests: DigestCache
) -> None:
    calls: list[str] = []

    def convert(source: Path, target: Path) -> None:
        calls.append(source.name)
        (target / IR_NAME).write_text(source.name)

    (graphs := tmp_path / "graphs").mkdir()
    cache = IrCache(graphs, 1, convert)
    one, two = (
        check_manifest(first_model, "tiny-1", digests),
        check_manifest(second_model, "tiny-2", digests),
    )
    assert cache.get(one) == cache.get(one)
    assert calls == ["tiny-1"]
    os.utime(cache.get(one), ns=(1, 1))
    second = cache.get(two)
    assert list(graphs.iterdir()) == [second]
    cache.get(one)
    assert calls == ["tiny-1", "tiny-2", "tiny-1"]


def test_weight_formats_have_different_graphs(
    first_model: Path, tmp_path: Path, digests: DigestCache
) -> None:
    (graphs := tmp_path / "graphs").mkdir()
    manifest = check_manifest(first_model, "tiny-1", digests)

    small, exact = (
        IrCache(graphs, 2, partial(convert_in_process, weights=weights), weights).get(manifest)
        for weights in (WeightFormat.U8, WeightFormat.F32)
    )

    assert small != exact
    sizes = [(path / "openvino_model.bin").stat().st_size for path in (small, exact)]
    assert sizes[1] > 2 * sizes[0]


def test_a_failed_conversion_leaves_no_files(
    first_model: Path, tmp_path: Path, digests: DigestCache
) -> None:
    def fail(source: Path, target: Path) -> None:
        (target / IR_NAME).write_text("half")
        raise ModelRefusedError("no")

    (graphs := tmp_path / "graphs").mkdir()
    with pytest.raises(ModelRefusedError):
        IrCache(graphs, 1, fail).get(check_manifest(first_model, "tiny-1", digests))
    assert list(graphs.iterdir()) == []


def test_conversion_in_a_process_reports_the_reason_of_a_refusal(
    first_model: Path, tmp_path: Path
) -> None:
    convert_in_process(first_model, tmp_path)
    assert (tmp_path / IR_NAME).is_file()
    (empty := tmp_path / "empty").mkdir()
    with refused(ModelRefusedError, field="config.json", reason="MISSING") as caught:
        convert_in_process(empty, tmp_path)
    assert "config.json" in caught.value.text


def test_end_tokens_come_from_the_first_file_with_a_value(copy: Path) -> None:
    codec = TextCodec.from_directory(copy)
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4, 3]}))
    assert read_end_ids(copy, codec) == (3, 4)
    (copy / "generation_config.json").unlink()
    assert read_end_ids(copy, codec) == (2,)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    (copy / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|user|>"}}))
    assert read_end_ids(copy, codec) == (3,)
    (copy / "tokenizer_config.json").write_text("{}")
    with refused(ModelRefusedError, field="eos_token_id", reason="MISSING"):
        read_end_ids(copy, codec)


def test_the_journal_lists_loaded_versions(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "loaded.json")
    assert journal.read() == {}
    journal.add("a", Path("/models/a"))
    journal.add("b", Path("/models/b"))
    journal.remove("a")
    assert Journal(tmp_path / "loaded.json").read() == {"b": Path("/models/b")}
    (tmp_path / "loaded.json").write_text("{")
    assert journal.read() == {}
