"""MODEL=: accepted values, resulting names, and errors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.install.small_model.errors import ModelError
from infra.install.small_model.resolve import resolve_model, version_of
from tests.support.errors import refused
from training.artifacts.manifest import verify_manifest
from training.model.checkpoint import save_decoder
from training.model.config import llama_json, parse_config
from training.model.transformer import Decoder, initialise


def silent(_: str) -> None:
    """Ignore all printed messages."""


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    folder = tmp_path / "Tiny Llama-Chat"
    decoder = Decoder(parse_config(llama_json(64, 32, 1, 2, 1, 48)))
    initialise(decoder, seed=0)
    save_decoder(decoder, folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ messages }}", "eos_token": "</s>"})
    )
    return folder


def test_directory_becomes_a_version_with_manifest(llama: Path, tmp_path: Path) -> None:
    folder = resolve_model(str(llama), tmp_path / "models", silent)
    assert folder == tmp_path / "models" / "tiny-llama-chat"
    manifest = verify_manifest(folder)
    assert (manifest.kind, manifest.version, manifest.parents) == (
        "model",
        "tiny-llama-chat",
        ("Tiny Llama-Chat",),
    )
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= set(
        manifest.files
    )


def test_directory_is_installed_once(llama: Path, tmp_path: Path) -> None:
    first = (resolve_model(str(llama), tmp_path / "models", silent) / "manifest.json").read_bytes()
    assert (
        resolve_model(str(llama), tmp_path / "models", silent) / "manifest.json"
    ).read_bytes() == first


def test_separate_chat_template_is_copied_into_the_config(llama: Path, tmp_path: Path) -> None:
    (llama / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    (llama / "chat_template.jinja").write_text("{{ messages[0].content }}")
    folder = resolve_model(str(llama), tmp_path / "models", silent)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages[0].content }}"


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def with_another_family(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))


def without_template(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "field", "reason", "limit", "named"),
    [
        (without_weights, "*.safetensors", "MISSING", "", "*.safetensors"),
        (
            with_another_family,
            "model_type",
            "UNSUPPORTED",
            "llama, qwen2, qwen3, gemma3_text",
            "'mamba'",
        ),
        (without_template, "chat_template", "MISSING", "", "tokenizer_config.json"),
    ],
)
def test_unsupported_directory_is_rejected_by_name(
    llama: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    field: str,
    reason: str,
    limit: str,
    named: str,
) -> None:
    damage(llama)
    with refused(ModelError, field=field, reason=reason, limit=limit) as caught:
        resolve_model(str(llama), tmp_path / "models", silent)
    assert named in caught.value.text
    assert not (tmp_path / "models").exists()


def test_unknown_model_is_rejected(tmp_path: Path) -> None:
    with refused(
        ModelError, field="MODEL", reason="UNKNOWN", limit="small, nano, a directory, owner/name"
    ) as caught:
        resolve_model("nowhere", tmp_path, silent)
    assert "MODEL=nowhere:" in caught.value.text


@pytest.mark.parametrize(
    ("name", "version"),
    [("Qwen/Qwen3-0.6B", "qwen-qwen3-0.6b"), ("My Model!", "my-model"), ("..x..", "x")],
)
def test_version_names_are_plain(name: str, version: str) -> None:
    assert version_of(name) == version
