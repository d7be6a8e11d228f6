"""From the committed adapter and the cached GGUF file to a model directory that trainer and server
read.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from infra.small_model import installation
from infra.small_model.errors import ModelError
from infra.small_model.installation import (
    ADAPTER,
    check_adapter,
    install_base,
    install_small,
    link_model,
)
from infra.small_model.packages import concatenate
from infra.small_model.tensors import TensorFile, open_tensors
from tests.support.errors import refused
from training.data.chat import Message, load_chat
from training.manifest import MANIFEST, read_manifest, verify_manifest, write_manifest
from training.model.checkpoint import read_config


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "toy-0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    write_manifest(folder, kind="model", version="toy-0")
    return folder


def test_a_model_directory_is_placed_by_links_with_its_manifest(
    finished: Path, tmp_path: Path
) -> None:
    target = link_model(finished, tmp_path / "models" / "toy-0")
    assert verify_manifest(target).version == "toy-0"
    assert (target / "config.json").stat().st_ino == (finished / "config.json").stat().st_ino


def test_a_half_placed_directory_is_made_again(finished: Path, tmp_path: Path) -> None:
    target = link_model(finished, tmp_path / "models" / "toy-0")
    (target / MANIFEST).unlink()
    (target / "stray").touch()
    assert set(verify_manifest(link_model(finished, target)).files) == {"config.json"}
    assert not (target / "stray").exists()


def test_parts_are_joined_by_their_number_and_hashed_as_a_whole(tmp_path: Path) -> None:
    for name, text in (("z.part00", b"abc"), ("a.part01", b"def")):
        (tmp_path / name).write_bytes(text)
    digest = concatenate(list(tmp_path.glob("*.part*")), tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"abcdef"
    assert digest == "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))


def test_an_adapter_without_a_manifest_is_refused(adapter: Path) -> None:
    (adapter / MANIFEST).unlink()
    with refused(ModelError, field=MANIFEST, reason="MISSING"):
        check_adapter(adapter)


def test_a_damaged_adapter_is_refused_with_the_way_to_restore_it(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"\0" * 99)
    with refused(ModelError, field="adapter_model.safetensors", reason="MISMATCH") as caught:
        check_adapter(adapter)
    assert f"git checkout -- {adapter}" in caught.value.text


def test_an_adapter_of_another_base_is_refused(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "GGUF_SHA256", "0" * 64)
    with refused(ModelError, field="base.gguf_sha256", reason="MISMATCH", limit="0" * 64):
        check_adapter(adapter)


@pytest.mark.slow
def test_the_small_model_is_a_directory_that_trainer_and_template_read(tmp_path: Path) -> None:
    said: list[str] = []
    folder = install_small(tmp_path, said.append)
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
    """The bytes of a tensor: comparing a hundred million floats takes two seconds."""
    first, end = file.entries[name]["data_offsets"]
    return np.memmap(file.path, np.uint8, "r", file.data_start_bytes + first, (end - first,))


@pytest.mark.slow
def test_the_adapter_changes_every_projection_and_nothing_else(tmp_path: Path) -> None:
    base = open_tensors(install_base(tmp_path, print) / "model.safetensors")
    small = open_tensors(install_small(tmp_path, print) / "model.safetensors")
    assert base.entries.keys() == small.entries.keys()
    changed = {
        name for name in base.entries if not np.array_equal(stored(base, name), stored(small, name))
    }
    assert changed == {name for name in base.entries if name.endswith("_proj.weight")}


@pytest.mark.slow
def test_a_second_installation_says_and_writes_nothing(tmp_path: Path) -> None:
    folder = install_small(tmp_path, print)
    written = (folder / MANIFEST).stat().st_mtime_ns
    said: list[str] = []
    assert install_small(tmp_path, said.append) == folder
    assert said == []
    assert (folder / MANIFEST).stat().st_mtime_ns == written
