"""Low-rank adapters (Hu et al., arXiv 2106.09685): several per frozen decoder, at most one active.

Wrapped projections keep their weight and its name, so checkpoints do not change. Files follow PEFT
(adapter_config.json, adapter_model.safetensors). There is no dropout, because PPO's ratios need two
evaluations of the same function.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from durable_files.files import make_directory
from training.artifacts.manifest import MANIFEST
from training.errors import ConfigError, DetailedError, details_of
from training.model.config import LoraConfig
from training.model.fields import ModelConfigError, read_object
from training.model.tensor_files import read_tensors
from training.model.transformer import Decoder

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
BASE_SHA256 = "base_model_sha256"  # no field of PEFT, which ignores others
PEFT_PREFIX = "base_model.model."
ADAPTERS = ".adapters."  # part of every adapter parameter's name


class AdapterError(DetailedError, ValueError):
    """Error for an adapter that does not fit the decoder, or for a duplicate or unknown name."""

    reason = "INVALID_ADAPTER"


class LoraPair(nn.Module):
    """Low-rank update x A^T B^T * scale with A [r, in] and B [out, r].

    B starts at zero, so a new adapter changes no output.
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = config.alpha / config.rank
        down = torch.empty(config.rank, linear.in_features, device="cpu")  # like the generator
        bound = 1 / math.sqrt(linear.in_features)  # kaiming_uniform with a = sqrt(5), as in PEFT
        self.lora_A = nn.Parameter(down.uniform_(-bound, bound, generator=generator))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, config.rank, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        down = F.linear(x, self.lora_A.to(x.dtype))
        return F.linear(down, self.lora_B.to(x.dtype)) * self.scale

    def delta(self) -> Tensor:
        """Return the equivalent weight update, [out, in]."""
        return self.lora_B @ self.lora_A * self.scale


class LoraLinear(nn.Linear):
    """A linear projection with named adapters."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.bias = linear.bias
        self.adapters = nn.ModuleDict()
        self.active: str | None = None

    def forward(self, input: Tensor) -> Tensor:
        out = F.linear(input, self.weight, self.bias)
        if self.active is not None and self.active in self.adapters:
            out = out + self.adapters[self.active](input)
        return out


def add_adapter(decoder: Decoder, name: str, config: LoraConfig, seed: int) -> list[nn.Parameter]:
    """Add a new adapter to every target projection and freeze the decoder's own weights.

    Returns:
        the adapter's parameters, in the decoder's order.

    Raises:
        AdapterError: the name is in use.
    """
    for parameter_name, parameter in decoder.named_parameters():
        if ADAPTERS not in parameter_name:
            parameter.requires_grad_(False)
    for module in list(decoder.modules()):
        for child_name, child in list(module.named_children()):
            if child_name in config.targets and type(child) is nn.Linear:
                setattr(module, child_name, LoraLinear(child))
    generator = torch.Generator().manual_seed(seed)
    for path, linear in _wrapped(decoder):
        if path.rsplit(".", 1)[-1] not in config.targets:
            continue
        if name in linear.adapters:
            raise AdapterError(
                f"adapter {name!r} is already on the decoder", field=name, reason="EXISTS"
            )
        linear.adapters[name] = LoraPair(linear, config, generator).to(linear.weight.device)
    return adapter_parameters(decoder, name)


def copy_adapter(decoder: Decoder, source: str, target: str) -> None:
    """Copy the weights of adapter `source` to `target`; both must exist with the same shapes."""
    with torch.no_grad():
        for _, linear in _wrapped(decoder):
            if source in linear.adapters:
                linear.adapters[target].load_state_dict(linear.adapters[source].state_dict())


def adapter_parameters(decoder: Decoder, name: str) -> list[nn.Parameter]:
    """Return the parameters of one adapter, in the decoder's order.

    Raises:
        AdapterError: the decoder has no adapter of this name.
    """
    found = [
        p
        for _, linear in _wrapped(decoder)
        if name in linear.adapters
        for p in linear.adapters[name].parameters()
    ]
    if not found:
        raise AdapterError(f"no adapter {name!r} on the decoder", field=name, reason="MISSING")
    return found


def active_in(module: nn.Module) -> str | None:
    """Return the name of the active adapter in a decoder or a part of one."""
    return next((linear.active for _, linear in _wrapped(module)), None)


@contextmanager
def active_adapter(decoder: nn.Module, name: str | None) -> Iterator[None]:
    """Activate an adapter, or none, within the context; restore the previous state on exit."""
    linears = [linear for _, linear in _wrapped(decoder)]
    # Restoring the previous state permits nested contexts.
    before = [linear.active for linear in linears]
    for linear in linears:
        linear.active = name
    try:
        yield
    finally:
        for linear, old in zip(linears, before, strict=True):
            linear.active = old


def merge_adapter(decoder: Decoder, name: str) -> None:
    """Add the adapter to the base weights and remove it.

    Other adapters would then see a changed base, so merge last.
    """
    with torch.no_grad():
        for _, linear in _wrapped(decoder):
            if name in linear.adapters:
                pair = linear.adapters[name]
                assert isinstance(pair, LoraPair)
                linear.weight += pair.delta().to(linear.weight.dtype)
                del linear.adapters[name]


def merge_saved_adapter(decoder: Decoder, directory: Path) -> None:
    """Add a saved adapter to the base weights.

    Raises:
        AdapterError: the tensors differ from those of the targets on this decoder.
    """
    load_adapter(decoder, "merged", directory)
    merge_adapter(decoder, "merged")


def save_adapter(
    decoder: Decoder, name: str, config: LoraConfig, directory: Path, parent: str
) -> None:
    """Write the adapter in PEFT's format. `parent` is the name of the base model."""
    weights = {
        f"{path}{ADAPTERS}{name}.{part}": parameter
        for path, linear in _wrapped(decoder)
        if name in linear.adapters
        for part, parameter in linear.adapters[name].named_parameters()
    }
    save_adapter_weights(weights, config, directory, parent)


def save_adapter_weights(
    weights: Mapping[str, Tensor], config: LoraConfig, directory: Path, parent: str
) -> None:
    """Write one adapter in PEFT's format, from weights by their names in the decoder."""
    make_directory(directory)
    tensors: dict[str, Tensor] = {}
    for parameter_name, parameter in weights.items():
        path, _, own = parameter_name.partition(ADAPTERS)
        part = own.rsplit(".", 1)[-1]
        tensors[f"{PEFT_PREFIX}{path}.{part}.weight"] = (
            parameter.detach().float().contiguous().cpu()
        )
    save_file(tensors, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": parent,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(config.targets),
    }
    (directory / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def record_base(directory: Path, base: Path) -> None:
    """Write the hash of the base's weights into adapter_config.json, if its manifest has one."""
    if not (found := _weights_sha256(base)):
        return
    settings = {**_settings(directory), BASE_SHA256: found}
    (directory / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def check_base(directory: Path, base: Path) -> None:
    """Check that an adapter was trained on the weights of `base`.

    Other weights of the same shapes give wrong answers without an error, also in vLLM. Adapters
    without a hash, of earlier releases or of PEFT, pass; their shapes are checked by
    `load_adapter`.

    Raises:
        AdapterError: the adapter belongs to another base.
    """
    settings = _settings(directory)
    recorded, found = settings.get(BASE_SHA256), _weights_sha256(base)
    if not recorded or not found:
        return
    if recorded != found:
        raise AdapterError(
            f"{ADAPTER_CONFIG}: the adapter belongs to "
            f"{settings.get('base_model_name_or_path') or 'another base'} with weights "
            f"{str(recorded)[:12]}, and {base.name} has {found[:12]}",
            field=BASE_SHA256,
            reason="MISMATCH",
            limit=found,
        )


def _weights_sha256(directory: Path) -> str:
    """Return a hash over the hashes of the weights in a manifest; "" if it has none.

    The manifest of a model that an operator installed may have version and files only.
    """
    path = directory / MANIFEST
    files = read_object(path).get("files") if path.is_file() else None
    if not isinstance(files, dict):
        return ""
    weights = sorted(item for item in files.items() if item[0].endswith(".safetensors"))
    # An adapter beside merged weights is not part of the model.
    own = [item for item in weights if "/" not in item[0]]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest() if own else ""


def _settings(directory: Path) -> dict[str, Any]:
    path = directory / ADAPTER_CONFIG
    try:
        return read_object(path)
    except ModelConfigError as error:
        raise AdapterError(str(error), **details_of(error)) from error


def read_adapter_config(directory: Path) -> LoraConfig:
    """Read adapter_config.json.

    Raises:
        AdapterError: the file is missing or malformed, or requires an unsupported feature.
    """
    settings = _settings(directory)
    for field in ("use_dora", "use_rslora", "fan_in_fan_out", "modules_to_save"):
        if settings.get(field):
            raise AdapterError(
                f"{ADAPTER_CONFIG}: {field} is not supported", field=field, reason="UNSUPPORTED"
            )
    try:
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
        targets = settings["target_modules"]
        if isinstance(targets, str) or not all(isinstance(name, str) for name in targets):
            raise ValueError(targets)
        return LoraConfig(rank, alpha, tuple(targets))
    except ConfigError as error:
        raise AdapterError(f"{ADAPTER_CONFIG}: {error}", **details_of(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            f"{ADAPTER_CONFIG}: r, lora_alpha and target_modules must be a number, a number and a "
            "list of names",
            field=ADAPTER_CONFIG,
            reason="MALFORMED",
        ) from error


def load_adapter(decoder: Decoder, name: str, directory: Path) -> LoraConfig:
    """Add a saved adapter to the decoder under `name`.

    Raises:
        AdapterError: the tensors differ from those of the targets on this decoder.
    """
    config = read_adapter_config(directory)
    add_adapter(decoder, name, config, seed=0)
    tensors = read_tensors(directory / ADAPTER_WEIGHTS, torch.float32)
    slots = {
        f"{PEFT_PREFIX}{path}.{part}.weight": parameter
        for path, linear in _wrapped(decoder)
        if name in linear.adapters
        for part, parameter in linear.adapters[name].named_parameters()
    }
    mismatched = sorted(
        k for k in slots.keys() | tensors.keys() if _shape(slots, k) != _shape(tensors, k)
    )
    if mismatched:
        first = mismatched[0]
        found, expected = (str(_shape(some, first) or "missing") for some in (tensors, slots))
        raise AdapterError(
            f"{ADAPTER_WEIGHTS}: {len(mismatched)} tensors do not fit the decoder with rank "
            f"{config.rank}, first {first}: {found}, expected {expected}",
            field=first,
            reason="MISMATCH",
            limit=expected,
        )
    with torch.no_grad():
        for key, parameter in slots.items():
            parameter.copy_(tensors[key])
    return config


def _shape(tensors: Mapping[str, Tensor], key: str) -> list[int] | None:
    tensor = tensors.get(key)
    return None if tensor is None else list(tensor.shape)


def _wrapped(decoder: nn.Module) -> list[tuple[str, LoraLinear]]:
    return [
        (path, module) for path, module in decoder.named_modules() if isinstance(module, LoraLinear)
    ]
