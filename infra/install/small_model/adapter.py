"""Merge of a LoRA adapter (PEFT files) into base weights with numpy: W + B @ A * (alpha / rank)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.install.small_model.errors import ModelError
from infra.install.small_model.tensors import Floats, TensorFile, open_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. `targets` are the names of the base tensors that the adapter changes."""

    file: TensorFile
    scale: float
    targets: frozenset[str]

    def apply(self, name: str, weight: Floats) -> Floats:
        """Return the merged weight of a base tensor: [out, in] + [out, rank] @ [rank, in]."""
        if name not in self.targets:
            return weight
        a, b = self.file.tensor(_key(name, "A")), self.file.tensor(_key(name, "B"))
        if (b.shape[0], a.shape[1]) != weight.shape or a.shape[0] != b.shape[1]:
            raise ModelError(
                f"{name}: the adapter is {b.shape} x {a.shape}, the base {weight.shape}",
                field=name,
                reason="MISMATCH",
                limit=str(weight.shape),
            )
        merged: Floats = weight + b @ a * self.scale
        return merged


def open_adapter(folder: Path) -> Adapter:
    """Open the folder of an adapter.

    Raises:
        ModelError: the adapter is more than a plain LoRA.
    """
    settings: Mapping[str, object] = json.loads((folder / CONFIG).read_text())
    for field in ("use_dora", "use_rslora", "fan_in_fan_out", "modules_to_save"):
        if settings.get(field):
            raise ModelError(
                f"{CONFIG}: {field} is not supported", field=field, reason="UNSUPPORTED"
            )
    rank, alpha = int(str(settings["r"])), float(str(settings["lora_alpha"]))
    file = open_tensors(folder / WEIGHTS)
    targets = {
        key.removeprefix(_PREFIX).replace(".lora_A.", ".").replace(".lora_B.", ".")
        for key in file.entries
    }
    expected = {_key(name, part) for name in targets for part in "AB"}
    if expected != set(file.entries):
        raise ModelError(
            f"{WEIGHTS}: every target needs lora_A and lora_B; other tensors are not allowed",
            field=WEIGHTS,
            reason="MALFORMED",
        )
    # The scale of the update depends on the rank, so another one would change the model silently.
    for name in sorted(targets):
        if (found := file.shape(_key(name, "A"))[0]) != rank:
            raise ModelError(
                f"{CONFIG}: r is {rank}, and {name} has rank {found}",
                field="r",
                reason="MISMATCH",
                limit=str(found),
            )
    return Adapter(file, alpha / rank, frozenset(targets))


def check_targets(adapter: Adapter, base: TensorFile) -> None:
    """Check that the base has all tensors of the adapter; others would be left out silently.

    Raises:
        ModelError: names the first tensor that the base lacks.
    """
    if absent := sorted(adapter.targets - base.entries.keys()):
        raise ModelError(
            f"{WEIGHTS}: {absent[0]} is not in the base, like {len(absent) - 1} others",
            field=absent[0],
            reason="MISMATCH",
        )


def _key(name: str, part: str) -> str:
    return f"{_PREFIX}{name.removesuffix('.weight')}.lora_{part}.weight"
