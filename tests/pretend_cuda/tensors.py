"""Tensors of a pretended GPU, and the checks of the operations on them."""

import os
import sys
from collections import Counter
from typing import NoReturn

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CudaTensor", "PretendedOperations", "count_wait", "generators", "mixups", "refuse", "waits"]

waits: Counter[str] = Counter()  # of the host for the GPU, "kind at file:line"
mixups: list[str] = []  # of devices and generators, including those whose error was caught
generators: dict[int, str] = {}  # of torch.Generator: address -> device type

_COPIES = {"_to_copy", "copy_", "_foreach_copy_"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_WAITING = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive"}
_WAITING |= {"bincount", "repeat_interleave", "linalg_eigvals", "_linalg_eigvals", "linalg_eig"}
_PINNING = {"is_pinned", "_pin_memory"}
_SLOW_IN_HALF = {"convolution", "convolution_backward", "addmm", "mm", "bmm", "baddbmm"}  # on a CPU
_OWN = tuple(os.path.join("pretend_cuda", name) for name in ("__init__.py", "tensors.py"))
_NOT_THE_PROJECT = ("site-packages", "dist-packages", os.path.dirname(os.__file__), "<", *_OWN)


def _line() -> str:
    """The innermost line that belongs to no library; a backward pass runs in a thread that has none."""
    frame = sys._getframe(1)
    while frame:
        if not any(part in frame.f_code.co_filename for part in _NOT_THE_PROJECT):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "a backward pass"


def count_wait(kind: str) -> None:
    waits[f"{kind} at {_line()}"] += 1


def refuse(problem: str, error: type[Exception] = RuntimeError) -> NoReturn:
    mixups.append(f"{problem}, at {_line()}")
    raise error(mixups[-1])


class CudaTensor(torch.Tensor):
    """A tensor that reports a GPU as its device; `inner` holds its data."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device | None = None, requires_grad: bool | None = None):
        if requires_grad is not None:  # accelerate takes the class of a parameter to make another
            return torch.nn.Parameter(inner, requires_grad)
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "layout": inner.layout}
        self = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=device, **layout)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        self.inner = value.inner
        torch.Tensor.data.__set__(self, value)

    def __deepcopy__(self, memo):
        memo[id(self)] = copy = self.detach().clone().requires_grad_(self.requires_grad)
        copy.__dict__ |= {name: value for name, value in self.__dict__.items() if name == "_is_param"}
        return copy

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(tuple(torch.tensor(i) if isinstance(i, list) else i for i in index))

    def __format__(self, spec):
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __repr__(self, *, tensor_contents=None):
        return f"{self.inner!r} on {self.device}"

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *, force=False):
        return self.detach().cpu().numpy() if force else self.__array__()

    def __array__(self, *args, **kwargs):
        refuse("numpy() of a tensor on a GPU; use Tensor.cpu() first", TypeError)

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def data_ptr(self):
        return self.inner.data_ptr()


def _full(device) -> torch.device:
    """A device with its index."""
    device = torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if str(device) == "cuda" else device


def _map(change, x):
    """Change what is in lists, tuples and dictionaries."""
    if isinstance(x, dict):
        return {key: _map(change, value) for key, value in x.items()}
    return type(x)(_map(change, y) for y in x) if isinstance(x, list | tuple) else change(x)


def _first(x):
    return x[0] if isinstance(x, list | tuple) else x


def _run(func, args, kwargs):
    """Check an operation, count a wait, and run it on the CPU."""
    leaves: list = []
    _map(leaves.append, (args, kwargs))
    gpu = [x for x in leaves if isinstance(x, CudaTensor)]
    cpu = [x for x in leaves if isinstance(x, torch.Tensor) and x.device.type == "cpu"]
    drawn_from = [x for x in leaves if isinstance(x, torch._C.Generator)]
    device = _full(kwargs.get("device") or (gpu[0].device if gpu else "cpu"))
    name = func.overloadpacket.__name__
    if name in _COPIES and kwargs.get("device") is None:
        device = _first(args[0]).device
    if name not in _COPIES:
        _check_devices(func, name, args, gpu, cpu)
    if any(generators.get(generator._cdata, "cpu") != device.type for generator in drawn_from):
        refuse(f"{func} on {device} with a generator of another device")
    _count_wait(name, args, kwargs, device)
    if name == "_fused_sdp_choice":
        return 0  # plain operations: the fused kernels are the device's own
    out = _run_on_cpu(func, name, args, kwargs)
    if torch.Tag.inplace_view in func.tags:  # squeeze_, for example, which changes the wrapper's shape, too
        with no_dispatch():
            func(*args, **kwargs)
    if device.type != "cuda":
        return out
    known = {id(x.inner): x for x in gpu}  # in-place operations return their argument

    def on_gpu(x):
        return known[id(x)] if id(x) in known else CudaTensor(x, device) if isinstance(x, torch.Tensor) else x

    return _map(on_gpu, out)


def _run_on_cpu(func, name, args, kwargs):
    args, kwargs = _map(lambda x: x.inner if isinstance(x, CudaTensor) else x, (args, kwargs))
    kwargs = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "non_blocking")}
    if torch.device(kwargs.get("device") or "cpu").type == "cuda":
        kwargs["device"] = torch.device("cpu")
    if name in _PINNING:
        return name == "_pin_memory" and args[0].clone()
    dtypes = {x.dtype for x in args if isinstance(x, torch.Tensor)}
    if name in _SLOW_IN_HALF and dtypes in ({torch.float16}, {torch.bfloat16}):
        args = _map(lambda x: x.float() if isinstance(x, torch.Tensor) else x, args)
        return _map(lambda x: x.to(*dtypes) if isinstance(x, torch.Tensor) else x, func(*args, **kwargs))
    return func(*args, **kwargs)


def _check_devices(func, name, args, gpu, cpu) -> None:
    """Refuse what CUDA's kernels refuse: several devices, except for CPU indices and single numbers of the CPU."""
    if len({x.device for x in gpu}) > 1:
        refuse(f"{func} on several GPUs")
    if gpu and name in _INDEXING:
        values = args[2] if len(args) > 2 and isinstance(args[2], torch.Tensor) else None
        if not isinstance(args[0], CudaTensor) or (values is not None and values.dim() and values.device.type == "cpu"):
            refuse(f"{func}: an index or values on another device than the tensor")
    elif gpu and cpu:
        scalars = torch.Tag.pointwise in func.tags and all(x.dim() == 0 for x in cpu)
        if not scalars or (name.endswith("_") and not isinstance(args[0], CudaTensor)):
            refuse(f"{func} on {gpu[0].device} and the CPU, where it got {[tuple(x.shape) for x in cpu]}")


def _count_wait(name, args, kwargs, device) -> None:
    if name in _WAITING:
        count_wait(name)
    if name in _COPIES:
        source, down = _first(args[0] if name == "_to_copy" else args[1]), device.type == "cpu"
        if down and isinstance(source, CudaTensor):
            count_wait("copy to the CPU")
        elif not (down or isinstance(source, CudaTensor) or kwargs.get("non_blocking") or True in args[2:]):
            count_wait("copy to the GPU")
    if name in _INDEXING:
        indices = [x for x in args[1] if x is not None]
        if any(not isinstance(x, CudaTensor) or x.dtype in (torch.bool, torch.uint8) for x in indices):
            count_wait("index from the CPU, or a mask")


class PretendedOperations(TorchDispatchMode):
    """Sees the operations that make tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if not types and name not in _PINNING and kwargs.keys().isdisjoint(("device", "generator", "pin_memory")):
            return func(*args, **kwargs)  # all on the CPU
        return _run(func, args, kwargs)
