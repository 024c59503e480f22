"""A pretended GPU: tensors of device "gpu:0" that keep their numbers in the memory of the host.

Operations compute on the CPU, so results are real. As CUDA does, they refuse tensors and generators of different devices. They
also count what a real GPU would do: kernels, and calls for which the host waits. It needs no GPU and no CUDA build of torch.
"""

import contextlib
import traceback
from collections import Counter
from pathlib import Path
from typing import ClassVar
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "gpu"
_setup_privateuseone_for_python_backend(NAME)
DEVICE, HOST = torch.device(NAME, 0), torch.device("cpu")

READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "is_nonzero"}
"""Operations whose result the host needs at once, so it waits for all work of the GPU."""
INDEXED = {"index", "index_put", "_index_put_impl"}
"""Their indices may lie on the host. Indices of bool are looked up first, so the host waits."""
COPIES = {"copy", "_to_copy"}
NO_KERNEL = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "transpose", "t", "permute", "expand", "slice", "select", "narrow",
    "split", "split_with_sizes", "chunk", "unbind", "unfold", "squeeze", "unsqueeze", "diagonal", "as_strided", "detach",
    "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
}  # fmt: skip
"""Views and memory without content."""
_OURS = Path(__file__).resolve().parents[2]


class WrongDevice(RuntimeError):
    """CUDA would refuse this operation."""


class Account:
    """What happened on the device: the number of kernels, and by place where the host waited and what it copied to the device."""

    def __init__(self) -> None:
        self.kernels = 0
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()

    @property
    def blocking(self) -> int:
        """How often the host waited; a copy from pageable memory is such a wait, too."""
        return self.waits.total() + self.uploads.total()


_account = Account()


@contextlib.contextmanager
def accounted():
    """Count what happens within."""
    global _account
    before, _account = _account, Account()
    try:
        yield _account
    finally:
        _account = before


def count_kernel() -> None:
    """Count a kernel that is no operation of torch."""
    _account.kernels += 1


class GpuTensor(torch.Tensor):
    """A tensor of the device; `host` has its numbers."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host):
        # Tensors that were made in inference mode have no counter of versions, which views need.
        with torch.inference_mode(False):
            made = torch.Tensor._make_wrapper_subclass(
                cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype, device=DEVICE
            )  # fmt: skip
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})

    def tolist(self):
        _account.waits[f"tolist, {_place()}"] += 1
        return self.host.tolist()

    def numpy(self, **_):
        raise TypeError(f"a tensor of a GPU has no numpy array, {_place()}")

    def __array__(self, *_):
        raise TypeError(f"a tensor of a GPU has no numpy array, {_place()}")

    def __repr__(self, **_):
        return f"GpuTensor({self.host!r})"


class _Generator(torch.Generator):
    """A generator that knows that it belongs to the device."""

    on_device: ClassVar[set[int]] = (
        set()
    )  # by address: operations see another Python object of the same generator

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made._device = torch.device(device)
        change = cls.on_device.add if made._device.type == NAME else cls.on_device.discard
        change(made._cdata)
        return made

    @property
    def device(self):
        return self._device

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


@contextlib.contextmanager
def pretended_gpu():
    """Make the device available; yield it."""
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=DEVICE) is a copy from the host
    try:
        with mock.patch.object(torch, "Generator", _Generator), _Mode():
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)


def _call(func, args, kwargs):
    name = func._schema.name.partition("::")[2].rstrip("_")
    leaves = list(_leaves((args, tuple(kwargs.values()))))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    of_device = [tensor for tensor in tensors if isinstance(tensor, GpuTensor)]
    target = asked or (DEVICE if of_device else HOST)
    if name == "copy":
        target = DEVICE if isinstance(args[0], GpuTensor) else HOST
    _check(func, name, tensors, leaves, target)
    _count(name, args, kwargs, bool(of_device), target)

    given = {key: HOST if key == "device" and value is not None else value for key, value in kwargs.items()}
    out = func(*_mapped(_on_host, args), **{key: _mapped(_on_host, value) for key, value in given.items()})
    if target.type != NAME:
        # Without a copy the result would share the memory of the tensor on the device.
        return out.clone() if of_device and any(out is tensor.host for tensor in of_device) else out
    written = any(one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments)
    known = {id(tensor.host): tensor for tensor in of_device} if written else {}

    def on_device(value):
        """Return the very tensor that was written, or a new one."""
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else GpuTensor(value)

    return _mapped(on_device, out)


def _leaves(value):
    """Yield what lists and tuples contain: operations take no other containers, and torch's own functions are slow."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _mapped(change, value):
    """Change every leaf."""
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, one) for one in value)
    return change(value)


def _on_host(value):
    return value.host if isinstance(value, GpuTensor) else value


def _check(func, name, tensors, leaves, target) -> None:
    """Refuse what CUDA refuses."""
    mixed = any(isinstance(tensor, GpuTensor) for tensor in tensors) and name not in COPIES | INDEXED
    for tensor in tensors:
        if mixed and not isinstance(tensor, GpuTensor) and tensor.dim():
            raise WrongDevice(
                f"{func}: a tensor {tuple(tensor.shape)} of the CPU beside some of the GPU, {_place()}"
            )
    for leaf in leaves:
        # Not `torch.Generator`, which is replaced meanwhile.
        if isinstance(leaf, _Generator.__base__):
            of_device = leaf._cdata in _Generator.on_device
            if of_device != (target.type == NAME):
                raise WrongDevice(
                    f"{func}: the generator and the tensors are of different devices, {_place()}"
                )


def _count(name, args, kwargs, reads_device, target) -> None:
    """Count what a GPU would do."""
    on_device = target.type == NAME
    if (reads_device or on_device) and name not in NO_KERNEL:
        _account.kernels += 1
    if reads_device and name in READS:
        _account.waits[f"{name}, {_place()}"] += 1
    if name in INDEXED and reads_device:
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                _account.waits[f"{name} by bool, {_place()}"] += 1
            if index is not None and not isinstance(index, GpuTensor):
                _account.uploads[f"{name} by an index of the CPU, {_place()}"] += 1
    if name in COPIES:
        source = args[1] if name == "copy" else args[0]
        if isinstance(source, GpuTensor) and not on_device and not kwargs.get("non_blocking"):
            _account.waits[f"copy to the CPU, {_place()}"] += 1
        if not isinstance(source, GpuTensor) and on_device:
            _account.uploads[f"copy to the GPU, {_place()}"] += 1


def _place() -> str:
    """Return the line of ours that is running."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(_OURS) and path != Path(__file__) and ".venv" not in path.parts:
            return f"{path.relative_to(_OURS)}:{frame.lineno}: {frame.line}"
    return "?"
