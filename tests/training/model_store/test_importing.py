"""Imports from a directory: checks, licence, terms, resume, and what is refused."""

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from chat_format.templates import ChatTemplate
from chat_format.tokenizer_check import FILE as TOKEN_IDS
from chat_format.tokenizer_check import read_token_ids, token_ids
from tests.support.errors import refused
from tests.support.interrupted_source import InterruptedSource
from training.artifacts.manifest import MANIFEST, Manifest, hash_file, verify_manifest
from training.artifacts.registry import RegistryError
from training.data.chat import ChatError, Message, load_chat
from training.errors import DetailedError
from training.model.checkpoint import load_decoder
from training.model.fields import ModelConfigError
from training.model.tensor_files import CheckpointError
from training.model_store.destination import MARGIN_BYTES, DirectoryDestination
from training.model_store.importing import import_model
from training.model_store.source import DirectorySource, ModelImportError

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


class Usage(NamedTuple):
    """Result of `shutil.disk_usage`, in bytes."""

    total: int
    used: int
    free: int


def imported(
    model: Path,
    root: Path,
    accepted: Sequence[str] = (),
    said: list[str] | None = None,
    thinking: bool = False,
    template: str = "",
) -> Manifest:
    say = (said if said is not None else []).append
    destination = DirectoryDestination(root)
    source = DirectorySource(model)
    return import_model(source, "toy-1", destination, accepted, say, thinking, template)


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_version_is_complete_and_loads(model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (model / "pytorch_model.bin").write_bytes(b"\x80")
    (model / "modeling.py").write_text("raise SystemExit")
    found = imported(model, tmp_path / "models", said=said)
    version = tmp_path / "models" / "toy-1"
    assert verify_manifest(version) == found
    assert {path.name for path in version.iterdir()} == {*found.files, MANIFEST}
    assert {*SHARDS, "README.md"} <= found.files.keys()
    assert not {"pytorch_model.bin", "modeling.py"} & found.files.keys()
    assert load_decoder(version, torch.float32) is not None
    assert load_chat(version).stop_ids
    assert found.licence == "apache-2.0"
    assert found.parents == (str(model),)
    assert any(found.sha256 in line for line in said)
    assert any("apache-2.0" in line for line in said)


def test_link_out_of_the_folder_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("secret")
    (model / "LICENSE").symlink_to(tmp_path / "private.txt")
    with refused(ModelImportError, field="LICENSE", reason="UNSUPPORTED"):
        imported(model, tmp_path / "models")
    assert not list((tmp_path / "models").rglob("LICENSE"))


def test_links_within_the_folder_and_into_the_blobs_of_a_cache_are_copied(
    model: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--a--toy" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--toy" / "blobs"
    shutil.copytree(model, snapshot)
    blobs.mkdir()
    (snapshot / "README.md").rename(blobs / "abc")
    (snapshot / "README.md").symlink_to("../../blobs/abc")
    (snapshot / "LICENSE").symlink_to("README.md")
    found = imported(snapshot, tmp_path / "models")
    assert found.files["README.md"] == found.files["LICENSE"] == hash_file(blobs / "abc")
    assert not any(path.is_symlink() for path in (tmp_path / "models").rglob("*"))


def test_file_with_the_name_of_the_state_does_not_replace_the_state(
    model: Path, tmp_path: Path
) -> None:
    (model / "import.json").write_text('{"model.safetensors": {"sha256": "0"}}')
    found = imported(model, tmp_path / "models")
    assert "import.json" not in found.files
    assert verify_manifest(tmp_path / "models" / "toy-1") == found


HYBRID = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]"
    "{% if enable_thinking is defined and enable_thinking is false %}<none>{% endif %}{% endif %}"
)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(("thinking", "end"), [(False, "[assistant]<none>"), (True, "[assistant]")])
def test_thinking_is_switched_off_in_the_template_unless_it_is_wanted(
    model: Path, tmp_path: Path, thinking: bool, end: str, in_file: bool
) -> None:
    if in_file:
        (model / "chat_template.jinja").write_text(HYBRID)
    else:
        change(model / "tokenizer_config.json", chat_template=HYBRID)
    said: list[str] = []
    root = tmp_path / "models"
    found = imported(model, root, said=said, thinking=thinking)
    assert verify_manifest(root / "toy-1") == found
    assert f"thinking: {'on' if thinking else 'off'}" in " ".join(said)
    template = ChatTemplate.from_directory(root / "toy-1")
    assert template is not None
    messages = [{"role": "user", "content": "Hi"}]
    assert template.render(messages, add_generation_prompt=True) == f"[user]Hi{end}"
    settings = json.loads((root / "toy-1" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == template.source
    assert imported(model, root, thinking=thinking) == found
    with refused(ModelImportError, field="--thinking", reason="EXISTS"):
        imported(model, root, thinking=not thinking)


def test_template_that_always_thinks_is_announced(model: Path, tmp_path: Path) -> None:
    path = model / "tokenizer_config.json"
    change(path, chat_template=json.loads(path.read_text())["chat_template"] + "{# <think> #}")
    said: list[str] = []
    found = imported(model, tmp_path / "models", said=said)
    assert "users may see thoughts" in " ".join(said)
    assert found.config["thinking"] is None


def test_ids_for_the_comparison_with_the_model_server_are_written(
    model: Path, tmp_path: Path
) -> None:
    """Ids of the source are replaced, because its tokenizer may have been changed after them."""
    (model / TOKEN_IDS).write_text('{"Hello": [0]}')
    found = imported(model, tmp_path / "models")
    version = tmp_path / "models" / "toy-1"
    assert found.files[TOKEN_IDS] == hash_file(version / TOKEN_IDS)
    assert read_token_ids(version) == token_ids(version)
    assert imported(model, tmp_path / "models") == found


def test_second_import_of_the_same_model_changes_nothing(model: Path, tmp_path: Path) -> None:
    imported(model, tmp_path / "models")
    before = (tmp_path / "models" / "toy-1" / MANIFEST).read_bytes()
    source = InterruptedSource(model)
    import_model(source, "toy-1", DirectoryDestination(tmp_path / "models"), (), print)
    assert source.fetched == []
    assert (tmp_path / "models" / "toy-1" / MANIFEST).read_bytes() == before


def test_another_model_under_the_same_name_is_refused(model: Path, tmp_path: Path) -> None:
    imported(model, tmp_path / "models")
    change(model / "config.json", initializer_range=0.5)
    with refused(ModelImportError, field="--name", reason="EXISTS"):
        imported(model, tmp_path / "models")


def test_interrupted_import_continues_with_the_missing_files(model: Path, tmp_path: Path) -> None:
    destination = DirectoryDestination(tmp_path / "models")
    with pytest.raises(KeyboardInterrupt):
        import_model(InterruptedSource(model, SHARDS[1]), "toy-1", destination, (), print)
    assert not (tmp_path / "models" / "toy-1").exists()
    source = InterruptedSource(model)
    import_model(source, "toy-1", destination, (), print)
    assert source.fetched == [SHARDS[1]]
    verify_manifest(tmp_path / "models" / "toy-1")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["toy-1"]


def test_file_that_changed_since_an_interrupted_import_is_fetched_again(
    model: Path, tmp_path: Path
) -> None:
    destination = DirectoryDestination(tmp_path / "models")
    with pytest.raises(KeyboardInterrupt):
        import_model(InterruptedSource(model, SHARDS[1]), "toy-1", destination, (), print)
    change(model / "config.json", initializer_range=0.5)
    source = InterruptedSource(model)
    import_model(source, "toy-1", destination, (), print)
    assert source.fetched == ["config.json", SHARDS[1]]
    verify_manifest(tmp_path / "models" / "toy-1")


def test_too_little_disk_is_refused_before_the_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = sum(path.stat().st_size for path in model.iterdir() if path.name not in SHARDS)
    weights = sum((model / shard).stat().st_size for shard in SHARDS)
    free = MARGIN_BYTES + max(small, weights - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))
    source = InterruptedSource(model)
    with refused(ModelImportError, field="disk", reason="TOO_LARGE"):
        import_model(source, "toy-1", DirectoryDestination(tmp_path / "models"), (), print)
    assert not {*SHARDS} & {*source.fetched}


def test_pickles_are_refused(model: Path, tmp_path: Path) -> None:
    for name in (*SHARDS, "model.safetensors.index.json"):
        (model / name).unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with refused(ModelImportError, field="pytorch_model.bin", reason="UNSUPPORTED"):
        imported(model, tmp_path / "models")


def test_pickle_under_another_name_is_refused(model: Path, tmp_path: Path) -> None:
    (model / SHARDS[0]).write_bytes(pickle.dumps({"weights": [0] * 100}))
    with refused(CheckpointError, field=SHARDS[0], reason="UNSUPPORTED"):
        imported(model, tmp_path / "models")
    assert not (tmp_path / "models" / "toy-1").exists()


@pytest.mark.parametrize(
    ("damage", "kind", "field"),
    [
        (lambda m: change(m / "config.json", model_type="bert"), ModelConfigError, "model_type"),
        (lambda m: (m / "config.json").unlink(), ModelConfigError, "config.json"),
        (lambda m: (m / "tokenizer.json").unlink(), ChatError, "tokenizer.json"),
        (
            lambda m: change(m / "tokenizer_config.json", chat_template=None),
            ChatError,
            "chat_template",
        ),
        (lambda m: (m / SHARDS[1]).unlink(), ModelImportError, SHARDS[1]),
        (
            lambda m: change(m / "config.json", quantization_config={"bits": 4}),
            ModelImportError,
            "quantization_config.quant_method",
        ),
    ],
)
def test_incomplete_or_unsupported_model_is_refused(
    model: Path, tmp_path: Path, damage: Any, kind: type[DetailedError], field: str
) -> None:
    damage(model)
    with refused(kind, field=field):
        imported(model, tmp_path / "models")
    assert not (tmp_path / "models" / "toy-1").exists()


def test_template_in_a_file_of_its_own_is_moved_into_the_tokenizer_config(
    model: Path, tmp_path: Path
) -> None:
    template = json.loads((model / "tokenizer_config.json").read_text())["chat_template"]
    change(model / "tokenizer_config.json", chat_template=None)
    (model / "chat_template.jinja").write_text(template)
    imported(model, tmp_path / "models")
    version = tmp_path / "models" / "toy-1"
    settings = json.loads((version / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == template
    verify_manifest(version)


PLAIN = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize("is_file", [False, True])
def test_given_template_replaces_that_of_the_source(
    model: Path, tmp_path: Path, is_file: bool
) -> None:
    """Import a base model without a template, and a model with one in a file of its own."""
    change(model / "tokenizer_config.json", chat_template=None)
    if is_file:
        (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    found = imported(model, tmp_path / "models", template=PLAIN)
    version = tmp_path / "models" / "toy-1"
    verify_manifest(version)
    chat = load_chat(version)
    assert chat.decode(chat.prompt_ids([Message("user", "Hi")])) == "user: Hi\nassistant:"
    assert imported(model, tmp_path / "models", template=PLAIN) == found
    for other in ("", PLAIN + " "):
        with refused(ModelImportError, field="--chat-template", reason="EXISTS"):
            imported(model, tmp_path / "models", template=other)


def test_interrupted_import_is_continued_with_another_template(model: Path, tmp_path: Path) -> None:
    destination = DirectoryDestination(tmp_path / "models")
    own = json.loads((model / "tokenizer_config.json").read_text())["chat_template"]
    with pytest.raises(KeyboardInterrupt):
        source = InterruptedSource(model, SHARDS[1])
        import_model(source, "toy-1", destination, (), print, template=PLAIN)
    imported(model, tmp_path / "models")
    settings = json.loads((tmp_path / "models" / "toy-1" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == own


def test_quantisation_is_stated(model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    quantised = {"quant_method": "awq", "bits": 4}
    change(model / "config.json", quantization_config=quantised)
    save_file({"a": torch.zeros(4, dtype=torch.int32)}, model / SHARDS[0])
    found = imported(model, tmp_path / "models", said=said)
    assert "quantisation: awq, 4 bits" in said
    assert found.report["quantisation"] == "awq, 4 bits"
    assert found.report["elements"]["I32"] == 4


def test_whole_numbers_without_a_stated_quantisation_are_refused(
    model: Path, tmp_path: Path
) -> None:
    save_file({"a": torch.zeros(4, dtype=torch.int32)}, model / SHARDS[0])
    with refused(CheckpointError, field="a", reason="UNSUPPORTED"):
        imported(model, tmp_path / "models")


@pytest.mark.parametrize(
    ("card", "licence_file", "expected"),
    [
        ("---\nlicense: mit\n---\n", "Apache License\n", "mit"),
        ("---\nlicense: other\nlicense_name: qwen\n---\n", "", "qwen"),
        ("no metadata\n", "\n  Apache License  \nVersion 2.0\n", "Apache License"),
        ("---\nlicense: [\n---\n", "MIT License\n", "MIT License"),
    ],
)
def test_licence_is_that_of_the_card_or_of_the_file(
    model: Path, tmp_path: Path, card: str, licence_file: str, expected: str
) -> None:
    (model / "README.md").write_text(card)
    (model / "LICENSE").write_text(licence_file)
    assert imported(model, tmp_path / "models").licence == expected


def test_unknown_licence_is_said(model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (model / "README.md").unlink()
    change(model / "config.json", model_type="qwen3")
    with pytest.raises(CheckpointError):  # the weights are those of another family
        load_decoder(model, torch.float32)
    assert imported(model, tmp_path / "models", said=said).licence == "unknown"
    assert any("licence: unknown" in line for line in said)


@pytest.mark.parametrize(
    ("card", "terms"),
    [("license: gemma", "gemma"), ("license: llama3.1", "llama"), ("tags: []", "llama")],
)
def test_terms_must_be_accepted(model: Path, tmp_path: Path, card: str, terms: str) -> None:
    (model / "README.md").write_text(f"---\n{card}\n---\n")
    other = {"gemma": "llama", "llama": "gemma"}[terms]
    for accepted in ((), (other,)):
        with refused(ModelImportError, field="--accept-terms", reason="MISSING", limit=terms):
            imported(model, tmp_path / "models", accepted)
    assert imported(model, tmp_path / "models", [terms]).version == "toy-1"


def test_invalid_name_is_refused(model: Path, tmp_path: Path) -> None:
    with refused(RegistryError, field="version", reason="MALFORMED"):
        import_model(DirectorySource(model), "../toy", DirectoryDestination(tmp_path), (), print)
