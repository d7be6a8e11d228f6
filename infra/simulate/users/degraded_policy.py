"""Degraded policy for the control experiment: the first and the last layer are swapped.

No weight changes, so the code works for any dtype and without torch. The model still generates
text, but without sense. A swap of adjacent middle layers has little effect.
"""

import json
import re
import shutil
import struct
from pathlib import Path

from training.artifacts.manifest import MANIFEST, write_manifest

WEIGHTS = "model.safetensors"
_LAYER = re.compile(r"(.*\blayers\.)(\d+)(\..+)")


def degrade(source: Path, target: Path) -> Path:
    """Copy a model directory with the first and the last layer swapped, with a new manifest."""
    if (target / MANIFEST).exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(MANIFEST, WEIGHTS))
    (target / WEIGHTS).write_bytes(swap_layers((source / WEIGHTS).read_bytes()))
    write_manifest(
        target,
        kind="model",
        version=target.name,
        parents=(source.name,),
        config={"made": "worse, two layers exchanged"},
    )
    return target


def swap_layers(weights: bytes) -> bytes:
    """Swap the names of the tensors of two layers in a safetensors file.

    Layout: u64 length, JSON header, data.
    """
    (length,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + length])
    layers = sorted({int(match[2]) for name in header if (match := _LAYER.fullmatch(name))})
    swap = {layers[0]: layers[-1], layers[-1]: layers[0]}
    renamed = {}
    for name, value in header.items():
        new_name = name
        if match := _LAYER.fullmatch(name):
            number = int(match[2])
            new_name = f"{match[1]}{swap.get(number, number)}{match[3]}"
        renamed[new_name] = value
    text = json.dumps(renamed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + weights[8 + length :]
