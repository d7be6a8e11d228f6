"""Import of a model: check, fetch, normalise, and write the manifest last."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from chat_format.errors import ChatFormatError
from chat_format.thinking import START, can_switch, with_thinking
from chat_format.tokenizer_check import FILE as TOKEN_IDS
from chat_format.tokenizer_check import write_token_ids
from training.artifacts.manifest import Manifest, hash_file
from training.artifacts.registry import check_version
from training.model.fields import read_object
from training.model_store.checks import (
    UNKNOWN_LICENCE,
    ModelDescription,
    check_terms,
    check_weights,
    describe_model,
)
from training.model_store.destination import MARGIN_BYTES, Destination, Draft
from training.model_store.source import (
    GIT,
    SHA256,
    ModelImportError,
    Source,
    SourceFile,
    git_blob_id,
    has_fingerprint,
    select_small_files,
    select_weights,
)
from training.runs import now

Say = Callable[[str], None]
# In the config of the manifest.
SOURCE_FILES, THINKING, GIVEN_TEMPLATE = "source_files", "thinking", "chat_template_sha256"
TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
TEMPLATE = "chat_template.jinja"


def import_model(
    source: Source,
    version: str,
    destination: Destination,
    accepted: Collection[str],
    say: Say,
    thinking: bool = False,
    template: str = "",
) -> Manifest:
    """Import a model as a version.

    A second call with the same model has no effect. A call after an interrupted one continues it.

    Args:
        accepted: terms of use that the operator has accepted.
        thinking: keep the thinking of a chat template that can switch it; otherwise it is switched
            off in the template of the version.
        template: chat template for the version; "" keeps that of the source.

    Raises:
        ModelImportError, ModelConfigError, ChatError, CheckpointError, RegistryError: the model is
            incomplete, unsupported or another one than this version, or the disk is too small.
        UnavailableError: the source does not answer.
    """
    check_version(version)
    files = source.files()
    small = select_small_files(files)
    chosen = {THINKING: thinking, GIVEN_TEMPLATE: _hash(template)}
    if (present := destination.manifest(version)) is not None:
        _require_same(present, version, source, files, small, chosen)
        say(f"{version} is imported already (sha256 {present.sha256})")
        return present
    draft = destination.open_draft(version)
    _require_room(draft, sum(file.size for file in small))
    for file in small:
        path, known = draft.folder / file.name, draft.files.get(file.name)
        if known and path.is_file() and hash_file(path) != known[SHA256]:
            del draft.files[file.name]  # an interrupted import wrote another chat template
        _fetch(source, file, version, destination, draft)
    if template:
        _write_template(draft.folder, template)
    description = describe_model(draft.folder)
    weights = select_weights(files, description.shards)
    _announce(source, version, description, weights, say)
    check_terms(description, accepted)
    missing = [file for file in weights if not _is_kept(source, file, destination, draft)]
    _require_room(draft, destination.room([file.size for file in missing]))
    for number, file in enumerate(missing, 1):
        say(f"{file.name} ({_size(file.size)}, {number} of {len(missing)})")
        _fetch(source, file, version, destination, draft, description)
    manifest = _manifest(source, version, description, [*small, *weights], draft, chosen, say)
    destination.finish(version, draft, manifest)
    say(f"imported {version} (sha256 {manifest.sha256})")
    return manifest


def _fetch(
    source: Source,
    file: SourceFile,
    version: str,
    destination: Destination,
    draft: Draft,
    description: ModelDescription | None = None,
) -> None:
    """Fetch a file, unless the draft has it, and compare it with the fingerprint of the source.

    Args:
        description: given for weights.
    """
    if _is_kept(source, file, destination, draft):
        return
    fingerprint = source.fingerprint(file)
    source.fetch(file, draft.folder)
    path = draft.folder / file.name
    if not has_fingerprint(path, fingerprint, file.size):
        path.unlink()
        raise ModelImportError(
            f"{file.name}: differs from the size and hash that {source.name} states; it was "
            "deleted, and the same command fetches it again",
            field=file.name,
            reason="MISMATCH",
        )
    kind, _, value = fingerprint.partition(":")
    found = {SHA256: hash_file(path), kind: value}
    if description is None:
        found[GIT] = git_blob_id(path)
    else:
        counts = check_weights(path, description.quantisation)
        found |= {f"elements {stored}": str(count) for stored, count in counts.items()}
    draft.files[file.name] = found
    destination.keep(version, draft, file.name, is_weights=description is not None)


def _is_kept(source: Source, file: SourceFile, destination: Destination, draft: Draft) -> bool:
    known = draft.files.get(file.name)
    return (
        known is not None
        and destination.has(draft, file.name)
        and _agrees(known, source.fingerprint(file))
    )


def _agrees(known: Mapping[str, str], fingerprint: str) -> bool:
    kind, _, value = fingerprint.partition(":")
    return known.get(kind) == value


def _require_same(
    present: Manifest,
    version: str,
    source: Source,
    files: Sequence[SourceFile],
    small: Sequence[SourceFile],
    chosen: Mapping[str, Any],
) -> None:
    """Compare a source and the options with those that a version was imported with."""
    known = present.config.get(SOURCE_FILES) or {}
    by_name = {file.name: file for file in files}
    is_same = (
        known
        and known.keys() >= {file.name for file in small}
        and known.keys() <= by_name.keys()
        and all(_agrees(known[name], source.fingerprint(by_name[name])) for name in known)
    )
    if not is_same:
        origin = ", ".join(present.parents) or "of a run"
        raise ModelImportError(
            f"--name: {version} is another model already ({origin}); choose another name",
            field="--name",
            reason="EXISTS",
        )
    is_kept = present.config.get(THINKING)
    if is_kept is not None and is_kept != chosen[THINKING]:
        raise ModelImportError(
            f"--thinking: {version} was imported with thinking {'on' if is_kept else 'off'}; "
            "choose another --name",
            field="--thinking",
            reason="EXISTS",
        )
    if present.config.get(GIVEN_TEMPLATE) != chosen[GIVEN_TEMPLATE]:
        raise ModelImportError(
            f"--chat-template: {version} was imported with another template; choose another --name",
            field="--chat-template",
            reason="EXISTS",
        )


def _require_room(draft: Draft, needed: int) -> None:
    free = shutil.disk_usage(draft.folder).free
    if needed and needed + MARGIN_BYTES > free:
        raise ModelImportError(
            f"disk: {_size(needed)} are needed in {draft.folder.parent}, and {_size(free)} are "
            f"free ({_size(MARGIN_BYTES)} of them stay free)",
            field="disk",
            reason="TOO_LARGE",
            limit=_size(max(0, free - MARGIN_BYTES)),
        )


def _announce(
    source: Source,
    version: str,
    description: ModelDescription,
    weights: Sequence[SourceFile],
    say: Say,
) -> None:
    total = _size(sum(file.size for file in weights))
    say(f"{source.name} as {version}: {description.family}, {len(weights)} files, {total}")
    say(f"quantisation: {description.quantisation or 'none'}")
    say(f"licence: {description.licence or f'{UNKNOWN_LICENCE} (neither model card nor LICENSE)'}")


def _manifest(
    source: Source,
    version: str,
    description: ModelDescription,
    files: Sequence[SourceFile],
    draft: Draft,
    chosen: Mapping[str, Any],
    say: Say,
) -> Manifest:
    """Normalise the small files, and describe the version."""
    hashes = {file.name: draft.files[file.name][SHA256] for file in files}
    is_hybrid = _set_thinking(draft.folder, chosen[THINKING], say)
    for path in _normalise(draft.folder):
        hashes[path.name] = hash_file(path)
    elements: Counter[str] = Counter()
    for file in files:
        for kind, count in draft.files[file.name].items():
            if kind.startswith("elements "):
                elements[kind.removeprefix("elements ")] += int(count)
    return Manifest(
        kind="model",
        version=version,
        created=now(),
        files=dict(sorted(hashes.items())),
        parents=(source.name,),
        config={
            "source": source.name,
            SOURCE_FILES: {file.name: draft.files[file.name] for file in files},
            **chosen,
            THINKING: chosen[THINKING] if is_hybrid else None,
        },
        report={
            "family": description.family,
            "quantisation": description.quantisation,
            "elements": dict(elements),
        },
        licence=description.licence or UNKNOWN_LICENCE,
    )


def _hash(template: str) -> str | None:
    return hashlib.sha256(template.encode()).hexdigest() if template else None


def _write_template(folder: Path, template: str) -> None:
    """Replace the chat template where servers and trainer read it."""
    file, tokenizer = folder / TEMPLATE, folder / TOKENIZER_CONFIG
    if file.is_file() and file.read_text() != template:
        file.write_text(template)
    settings = read_object(tokenizer) if tokenizer.is_file() else {}
    if settings.get("chat_template") != template:
        tokenizer.write_text(json.dumps({**settings, "chat_template": template}, indent=2) + "\n")


def _set_thinking(folder: Path, thinking: bool, say: Say) -> bool:
    """Write the chat template into tokenizer_config.json, with thinking off unless it is wanted.

    Returns:
        True if the template can switch thinking.
    """
    tokenizer, file = folder / TOKENIZER_CONFIG, folder / TEMPLATE
    settings = read_object(tokenizer)
    template = file.read_text() if file.is_file() else settings.get("chat_template")
    if not isinstance(template, str):
        return False
    if is_hybrid := can_switch(template):
        kept = "on" if thinking else "off; --thinking on keeps that of the template"
        say(f"thinking: {kept}")
    elif START in template:
        say(f"thinking: the template mentions {START} and has no switch; users may see thoughts")
    written = with_thinking(template, thinking)
    _write_template(folder, written)
    return is_hybrid


def _normalise(folder: Path) -> list[Path]:
    """Put end tokens and token ids where servers, trainer and generator expect them.

    Returns:
        the files that may differ from those of the source.

    Raises:
        ModelImportError: the tokenizer is malformed.
    """
    tokenizer, generation = folder / TOKENIZER_CONFIG, folder / GENERATION_CONFIG
    ends = read_object(folder / "config.json").get("eos_token_id")
    if ends is not None and not generation.exists():
        generation.write_text(json.dumps({"eos_token_id": ends}) + "\n")
    try:
        # The generator compares them with the tokenizer of the model server before users get it.
        write_token_ids(folder)
    except ChatFormatError as error:
        raise ModelImportError(
            error.text, field=error.field, reason=error.reason, limit=error.limit
        ) from error
    written = (tokenizer, folder / TEMPLATE, generation, folder / TOKEN_IDS)
    return [path for path in written if path.exists()]


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
