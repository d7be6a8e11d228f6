"""Model folders with the files by which the generator checks adapters, as training writes them."""

import hashlib
import json
from pathlib import Path
from typing import Any

FILES = {"config.json": "{}", "chat_template.jinja": "{{ messages }}"}


def write_model(root: Path, version: str, **texts: str) -> Path:
    """Write a complete model; `texts` replace the content of files."""
    for name, text in {**FILES, "model.safetensors": f"weights of {version}", **texts}.items():
        path = root / version / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_manifest(root / version)
    return root / version


def write_manifest(directory: Path, **fields: Any) -> None:
    """Write the manifest with the hashes of all files."""
    files = {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    content = {"format": 1, "kind": "model", "version": directory.name, "files": files, **fields}
    (directory / "manifest.json").write_text(json.dumps(content))


def write_adapter(root: Path, version: str, base: str, rank: int = 8) -> Path:
    """Write a version that is an adapter of `base`, which must exist."""
    directory = write_model(root, version)
    files = json.loads((root / base / "manifest.json").read_text())["files"]
    weights = [["model.safetensors", files["model.safetensors"]]]
    config = {
        "base_model_name_or_path": base,
        "base_model_sha256": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
        "r": rank,
    }
    folder = directory / "base_adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_text(f"adapter of {version}")
    write_manifest(directory)
    return directory
