"""A fake accelerator: a torch device whose tensors are stored and computed on the CPU.

Like CUDA, the device refuses operations with tensors of two devices (except numbers), and random
numbers from a CPU generator. `install` makes it the accelerator of torch for the rest of the
process, so call it in a subprocess. Attention uses the plain formula, so that figures equal those
of the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from training.runtime import context

NAME = "fake"
SKIPPED = ("sparse", "quantized", "cudnn", "mkldnn", "nested", "_make_dep_token", "from_file")
aten = torch.ops.aten
WAITS: Counter[str] = Counter()
"""Number of synchronisations by cause: a value was read, or a number of entries."""
TAKES_INDICES = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)
"""Operations with index tensors, which may be on the CPU."""
WAITING = {
    aten._local_scalar_dense.default: "value",
    aten.nonzero.default: "number of entries",
    **dict.fromkeys(TAKES_INDICES, "number of entries"),  # only with a mask
    aten._unique2.default: "number of entries",
    aten.unique_dim.default: "number of entries",
}


class MixedDevicesError(RuntimeError):
    """An operation has tensors of two devices, as in CUDA."""


class FakeDeviceTensor(Tensor):
    """A tensor of the fake device; `held` is its CPU tensor."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> FakeDeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"{NAME}({self.held})"

    def tolist(self) -> Any:
        """Replace torch's version, which needs a tensor without a subclass."""
        WAITS["value"] += 1
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        refuse(func, args, kwargs)
        note_wait(func, args, kwargs)
        asked = kwargs.get("device")
        to = None if asked is None else torch.device(asked)
        inner_args, inner_kwargs = tree_map_only(FakeDeviceTensor, lambda t: t.held, (args, kwargs))
        if to is not None and to.type == NAME:
            inner_kwargs["device"] = torch.device("cpu")
        out = func(*inner_args, **inner_kwargs)
        if func is aten._fused_adamw_.default:
            return out  # all changes are in place
        if to is not None and to.type != NAME:
            if to.type == "cpu":
                WAITS["copy"] += 1
            return out
        if func is aten.copy_.default and not isinstance(args[0], FakeDeviceTensor):
            WAITS["copy"] += 1
            return args[0]
        out = tree_map_only(Tensor, FakeDeviceTensor, out)
        return return_and_correct_aliasing(func, args, kwargs, out)


def tensors_of(args: Any, kwargs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]


def refuse(func: Any, args: Any, kwargs: Any) -> None:
    """Check the devices of an operation.

    Raises:
        MixedDevicesError: tensors of two devices, or a CPU generator.
    """
    leaves = tree_flatten((args, kwargs))[0]
    if any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise MixedDevicesError(f"{func}: a CPU generator for a tensor of {NAME}")
    if func is aten.copy_.default:
        return
    if func in TAKES_INDICES:
        leaves = tree_flatten((args[0], args[2:], kwargs))[0]
    foreign = [
        leaf
        for leaf in leaves
        if isinstance(leaf, Tensor) and not isinstance(leaf, FakeDeviceTensor)
    ]
    if any(tensor.dim() > 0 for tensor in foreign):
        shapes = [tuple(tensor.shape) for tensor in foreign]
        raise MixedDevicesError(f"{func}: CPU tensors {shapes} together with tensors of {NAME}")
    for argument, given in zip(func._schema.arguments, args, strict=False):
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(given, Tensor) and not isinstance(given, FakeDeviceTensor):
            raise MixedDevicesError(f"{func}: a CPU number changed by a tensor of {NAME}")


def note_wait(func: Any, args: Any, kwargs: Any) -> None:
    if func not in WAITING:
        return
    if func in TAKES_INDICES and not any(
        isinstance(i, FakeDeviceTensor) and i.dtype == torch.bool for i in args[1]
    ):
        return
    WAITS[WAITING[func]] += 1


def factories() -> Iterator[tuple[str, Any]]:
    """Yield all operations that create a tensor without a tensor argument for dispatch."""
    for full in torch._C._dispatch_get_all_op_names():
        name, _, overload = full.removeprefix("aten::").partition(".")
        if not full.startswith("aten::") or any(part in name for part in SKIPPED):
            continue
        found = getattr(getattr(torch.ops.aten, name, None), overload or "default", None)
        if found is None:
            continue
        given = found._schema.arguments
        makes = len(found._schema.returns) == 1 and str(found._schema.returns[0].type) == "Tensor"
        if (
            makes
            and any(a.name == "device" for a in given)
            and not any("Tensor" in str(a.type) for a in given)
        ):
            yield full.removeprefix("aten::"), found


def made_by(func: Any) -> Any:
    def make(*args: Any, **kwargs: Any) -> Tensor:
        refuse(func, args, kwargs)
        return FakeDeviceTensor(
            func(*args, **kwargs | {"device": torch.device("cpu"), "pin_memory": None})
        )

    return make


def copied(source: Tensor, into: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy a tensor; torch.tensor() calls this function and bypasses subclasses."""
    assert isinstance(into, FakeDeviceTensor)
    into.held.copy_(source.held if isinstance(source, FakeDeviceTensor) else source)
    return into


def _unreachable(*_: Any) -> Tensor:
    """Fail: FakeDeviceTensor.__torch_dispatch__ handles the operation before."""
    raise AssertionError


class _Stream:
    """A stream without pending work."""

    def synchronize(self) -> None: ...


STREAM, PEAK_BYTES = _Stream(), 12_345


class _Module(ModuleType):
    """The backend module, `torch.fake`."""

    def __init__(self) -> None:
        super().__init__(f"torch.{NAME}")

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def is_bf16_supported(self, including_emulation: bool) -> bool:
        return not including_emulation

    def max_memory_allocated(self) -> int:
        return PEAK_BYTES

    def current_stream(self) -> _Stream:
        return STREAM

    def stream(self, stream: _Stream) -> AbstractContextManager[None]:
        return nullcontext()


KERNELS: list[torch.library.Library] = []


def install() -> None:
    """Register the fake accelerator in torch, and its name for configurations."""
    context.DEVICE_TYPES = (*context.DEVICE_TYPES, NAME)
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    for name, func in factories():
        library.impl(name, made_by(func), "PrivateUse1")
    library.impl("_copy_from", copied, "PrivateUse1")
    # Devices without a kernel get a formula with other rounding.
    library.impl("silu_backward", _unreachable, "PrivateUse1")
    KERNELS.append(library)
