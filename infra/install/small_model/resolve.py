"""Resolution of MODEL=: `small`, a directory or a hub id becomes a model directory."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chat_format.thinking import with_thinking
from infra.install.small_model.errors import ModelError
from infra.install.small_model.hub import MODEL_FILE_PATTERNS, from_hub, missing_files
from infra.install.small_model.installation import install_small, link_or_copy
from infra.install.small_model.packages import Say
from training.artifacts.manifest import MANIFEST, write_manifest

SMALL, TEMPLATE = "small", "chat_template.jinja"
# Decoder families supported by the trainer and by the model server.
FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def announce(text: str) -> None:
    """Print a message for the person at the terminal."""
    print(f"==> {text}", flush=True)


def resolve_model(spec: str, models: Path, say: Say = announce) -> Path:
    """Return the model directory under `models` for the value of MODEL=.

    Raises:
        ModelError: the model is unavailable or unsupported; the message contains the remedy.
    """
    if spec == SMALL:
        return install_small(models, say)
    if Path(spec).expanduser().is_dir():
        folder = Path(spec).expanduser().resolve()
        return _install_directory(folder, models / version_of(folder.name), str(folder.name), say)
    if _HUB_ID.fullmatch(spec):
        target = models / version_of(spec)
        return (
            target
            if (target / MANIFEST).exists()
            else _install_directory(from_hub(spec, say), target, spec, say)
        )
    raise ModelError(
        f"MODEL={spec}: is neither {SMALL} (default), nano (a running system only), an existing "
        "directory nor a hub id (owner/name)",
        field="MODEL",
        reason="UNKNOWN",
        limit=f"{SMALL}, nano, a directory, owner/name",
    )


def version_of(name: str) -> str:
    """Derive a version id from a name: lower-case letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def check_directory(folder: Path) -> Mapping[str, Any]:
    """Return config.json of a supported model directory.

    Raises:
        ModelError: a file or field is missing or unsupported; names the file or field.
    """
    if missing := missing_files(folder):
        raise ModelError(
            f"{folder}: {', '.join(missing)} missing; need a Hugging Face model in safetensors",
            field=", ".join(missing),
            reason="MISSING",
        )
    config: Mapping[str, Any] = json.loads((folder / "config.json").read_text())
    if config.get("model_type") not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(
            f"{folder / 'config.json'}: model_type is {config.get('model_type')!r}, "
            f"supported: {known}",
            field="model_type",
            reason="UNSUPPORTED",
            limit=known,
        )
    if _chat_template(folder) is None:
        raise ModelError(
            f"{folder / 'tokenizer_config.json'}: chat_template is missing; "
            "choose an instruction-tuned model",
            field="chat_template",
            reason="MISSING",
        )
    return config


def _install_directory(folder: Path, target: Path, name: str, say: Say) -> Path:
    config = check_directory(folder)
    if (target / MANIFEST).exists():
        return target
    say(f"installing {name} ({config['model_type']}) as {target.name}")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for pattern in MODEL_FILE_PATTERNS:
        for file in folder.glob(pattern):
            if file.name not in (MANIFEST, "tokenizer_config.json", TEMPLATE):
                link_or_copy(file.resolve(), target / file.name)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    # Hybrid models answer without thoughts, as after `thumbwheel models import`.
    settings["chat_template"] = with_thinking(_chat_template(folder) or "", on=False)
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    if not (target / "generation_config.json").exists():
        (target / "generation_config.json").write_text(
            json.dumps({"eos_token_id": config.get("eos_token_id")}) + "\n"
        )
    write_manifest(
        target, kind="model", version=target.name, parents=(name,), licence="see its publisher's"
    )
    return target


def _chat_template(folder: Path) -> str | None:
    if (folder / TEMPLATE).exists():
        return (folder / TEMPLATE).read_text()
    template = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
    return template if isinstance(template, str) else None
