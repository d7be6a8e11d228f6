"""Checks of an imported model: architecture, tokenizer, template, weights, licence and terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.chat import load_chat
from training.model.config import parse_config
from training.model.fields import read_object
from training.model.tensor_files import INDEX, STORED_TYPES, CheckpointError, stored_tensors
from training.model_store.source import ModelImportError

GEMMA, LLAMA = "gemma", "llama"
TERMS = (GEMMA, LLAMA)
QUANTISATION = "quantization_config"
UNKNOWN_LICENCE = "unknown"
MODEL_CARD, MAX_CARD_BYTES = "README.md", 1 << 20


@dataclass(frozen=True)
class ModelDescription:
    """Properties of a model before its weights are read.

    Args:
        quantisation: method and bits, such as "awq, 4 bits"; "" for weights in floating point.
        licence: as in the model card or in the first line of LICENSE; "" if neither states one.
        shards: files in the index of the weights; None for a single file.
    """

    family: str
    quantisation: str
    licence: str
    shards: tuple[str, ...] | None

    @property
    def terms(self) -> str:
        """Terms of use that the operator has to accept; "" if none are known.

        Llama's architecture without a stated licence counts as Llama: other models of that
        architecture state theirs.
        """
        licence = self.licence.lower()
        if self.family.startswith(GEMMA) or GEMMA in licence:
            return GEMMA
        if LLAMA in licence or (self.family == LLAMA and not licence):
            return LLAMA
        return ""


def describe_model(folder: Path) -> ModelDescription:
    """Check all files but the weights.

    Raises:
        ModelConfigError, ChatError, ModelImportError: a file or field is missing or unsupported.
    """
    raw = read_object(folder / "config.json")
    quantisation = _quantisation(raw)
    parsed = parse_config({name: value for name, value in raw.items() if name != QUANTISATION})
    load_chat(folder)
    shards = None
    if (folder / INDEX).is_file():
        weight_map = read_object(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(name, str) for name in weight_map.values()
        ):
            raise ModelImportError(
                f"{INDEX}: weight_map must map each tensor to a file",
                field="weight_map",
                reason="WRONG_TYPE",
            )
        shards = tuple(sorted({*weight_map.values()}))
    return ModelDescription(parsed.family, quantisation, read_licence(folder), shards)


def check_terms(description: ModelDescription, accepted: Collection[str]) -> None:
    """Refuse a model with terms of use that were not accepted.

    Raises:
        ModelImportError: `field` is the option.
    """
    if description.terms and description.terms not in accepted:
        raise ModelImportError(
            f"--accept-terms: this model has terms of use of its own (licence: "
            f"{description.licence or UNKNOWN_LICENCE}); read them, then pass --accept-terms "
            f"{description.terms} (chart: models.acceptTerms)",
            field="--accept-terms",
            reason="MISSING",
            limit=description.terms,
        )


def check_weights(file: Path, quantisation: str) -> Counter[str]:
    """Return the number of stored elements by type.

    Raises:
        CheckpointError: the file is no safetensors file, or has types that only a quantised model
            has, without a quantization_config.
    """
    counts: Counter[str] = Counter()
    for name, (stored, elements) in stored_tensors(file).items():
        if not quantisation and stored not in STORED_TYPES:
            raise CheckpointError(
                f"{file.name}: {name} has type {stored}, and config.json states no {QUANTISATION}",
                field=name,
                reason="UNSUPPORTED",
                limit=", ".join(STORED_TYPES),
            )
        counts[stored] += elements
    return counts


def read_licence(folder: Path) -> str:
    """Return the licence of the model card's metadata, else the first line of a licence file."""
    card = _metadata(folder / MODEL_CARD)
    named = [str(card.get(key) or "") for key in ("license", "license_name")]
    if stated := next((name for name in named if name not in ("", "other")), ""):
        return stated
    files = sorted([*folder.glob("LICENSE*"), *folder.glob("LICENCE*")])
    return next((line for file in files for line in _lines(file)), "")


def _quantisation(raw: Mapping[str, Any]) -> str:
    found = raw.get(QUANTISATION)
    if found is None:
        return ""
    method = found.get("quant_method") if isinstance(found, dict) else None
    if not isinstance(method, str) or not method:
        raise ModelImportError(
            f"{QUANTISATION}: quant_method is missing, so the quantisation is not stated",
            field=f"{QUANTISATION}.quant_method",
            reason="MISSING",
        )
    bits = found.get("bits") or found.get("w_bit")
    return f"{method}, {bits} bits" if isinstance(bits, int) else method


def _metadata(card: Path) -> Mapping[str, Any]:
    """Return the YAML at the head of a model card; {} if there is none or it is malformed."""
    from huggingface_hub import metadata_load  # 0.2 s, for the import of a model only

    if not card.is_file() or card.stat().st_size > MAX_CARD_BYTES:
        return {}
    try:
        return metadata_load(card) or {}
    except Exception:  # noqa: BLE001 - errors of the YAML parser, which is not a dependency of ours
        return {}


def _lines(file: Path) -> Iterator[str]:
    with file.open(errors="replace") as opened:
        yield from (line.strip()[:200] for line in opened if line.strip())
