"""From the committed adapter and the cached GGUF file to a usable model directory."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from infra.install.small_model import installation
from infra.install.small_model.errors import ModelError
from infra.install.small_model.installation import (
    ADAPTER,
    check_adapter,
    install_base,
    install_small,
    link_model,
)
from infra.install.small_model.packages import concatenate
from infra.install.small_model.tensors import TensorFile, open_tensors
from tests.support.errors import refused
from training.artifacts.manifest import MANIFEST, read_manifest, verify_manifest, write_manifest
from training.data.chat import Message, load_chat
from training.model.checkpoint import read_config


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "toy-0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    write_manifest(folder, kind="model", version="toy-0")
    return folder


def test_model_directory_is_linked_with_its_manifest(finished: Path, tmp_path: Path) -> None:
    target = link_model(finished, tmp_path / "models" / "toy-0")
    assert verify_manifest(target).version == "toy-0"
    assert (target / "config.json").stat().st_ino == (finished / "config.json").stat().st_ino


def test_partial_directory_is_replaced(finished: Path, tmp_path: Path) -> None:
    target = link_model(finished, tmp_path / "models" / "toy-0")
    (target / MANIFEST).unlink()
    (target / "stray").touch()
    assert set(verify_manifest(link_model(finished, target)).files) == {"config.json"}
    assert not (target / "stray").exists()


def test_parts_are_joined_in_order_and_hashed(tmp_path: Path) -> None:
    for name, text in (("z.part00", b"abc"), ("a.part01", b"def")):
        (tmp_path / name).write_bytes(text)
    digest = concatenate(list(tmp_path.glob("*.part*")), tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"abcdef"
    assert digest == "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))


def test_adapter_without_manifest_is_rejected(adapter: Path) -> None:
    (adapter / MANIFEST).unlink()
    with refused(ModelError, field=MANIFEST, reason="MISSING"):
        check_adapter(adapter)


def test_damaged_adapter_is_rejected_with_restore_command(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"\0" * 99)
    with refused(ModelError, field="adapter_model.safetensors", reason="MISMATCH") as caught:
        check_adapter(adapter)
    assert f"git checkout -- {adapter}" in caught.value.text


def test_adapter_of_another_base_is_rejected(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "GGUF_SHA256", "0" * 64)
    with refused(ModelError, field="base.gguf_sha256", reason="MISMATCH", limit="0" * 64):
        check_adapter(adapter)


@pytest.mark.slow
def test_small_model_is_readable_by_trainer_and_template(tmp_path: Path) -> None:
    messages: list[str] = []
    folder = install_small(tmp_path, messages.append)
    manifest = verify_manifest(folder)
    assert (manifest.version, manifest.parents) == (
        "small-0",
        ("gemma-3-270m-64k", read_manifest(ADAPTER).version),
    )
    assert {"NOTICE.txt", "tokenizer.json", "generation_config.json", "model.safetensors"} <= set(
        manifest.files
    )
    config = read_config(folder)
    assert (config.vocab_size, config.num_layers, config.windows[5], config.windows[0]) == (
        65_536,
        18,
        None,
        512,
    )
    assert [rope.theta for rope in config.ropes[4:6]] == [10_000.0, 1_000_000.0]
    chat = load_chat(folder)
    system = chat.prompt_ids([Message("system", "Be brief."), Message("user", "Hi")])
    assert chat.decode(system) == "user\nBe brief.\n\nHi\nmodel\n"
    assert (
        chat.end_id
        == json.loads((folder / "generation_config.json").read_text())["eos_token_id"][1]
    )


def stored(file: TensorFile, name: str) -> np.ndarray:
    """Return the stored bytes: a comparison of a hundred million floats takes two seconds."""
    first, end = file.entries[name]["data_offsets"]
    return np.memmap(file.path, np.uint8, "r", file.data_start_bytes + first, (end - first,))


@pytest.mark.slow
def test_adapter_changes_only_the_projections(tmp_path: Path) -> None:
    base = open_tensors(install_base(tmp_path, print) / "model.safetensors")
    small = open_tensors(install_small(tmp_path, print) / "model.safetensors")
    assert base.entries.keys() == small.entries.keys()
    changed = {
        name for name in base.entries if not np.array_equal(stored(base, name), stored(small, name))
    }
    assert changed == {name for name in base.entries if name.endswith("_proj.weight")}


@pytest.mark.slow
def test_second_installation_is_silent_and_writes_no_file(tmp_path: Path) -> None:
    folder = install_small(tmp_path, print)
    written = (folder / MANIFEST).stat().st_mtime_ns
    messages: list[str] = []
    assert install_small(tmp_path, messages.append) == folder
    assert messages == []
    assert (folder / MANIFEST).stat().st_mtime_ns == written
