"""Pretends that this process's CPU build of torch has CUDA GPUs, so that tests find what would fail on real ones.

Tensors on a pretended GPU report its device and hold their data on the CPU. Operations that mix devices, generators of
another device and `numpy()` are errors at once, which name the line of the project; waits of the host are counted by
line. Import this module before torch, then call `on`. A build of torch for GPUs is left as it is.
"""

from types import SimpleNamespace
from unittest.mock import patch

from pretend_cuda.guard import PRETENDED, guard

# isort: split
import torch
from torch.utils._device import _device_constructors

from pretend_cuda.tensors import CudaTensor, PretendedOperations, count_wait, generators, mixups, refuse, waits

__all__ = ["CudaTensor", "mixups", "off", "on", "report", "waits"]


class Generator(torch.Generator):
    """A generator that knows its device, draws the CPU's numbers and has a state of another size on a GPU."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self._device = torch.device(device)
        generators[self._cdata] = self._device.type
        return self

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return self._device

    def get_state(self):
        state = super().get_state()
        return torch.cat([state, state.new_zeros(8)]) if self._device.type == "cuda" else state

    def set_state(self, state):
        if isinstance(state, CudaTensor):
            refuse("the state of a generator is on a GPU", TypeError)
        extra = 8 if self._device.type == "cuda" else 0
        if len(state) != len(super().get_state()) + extra:
            raise RuntimeError("RNG state is wrong size")
        return super().set_state(state[: len(state) - extra])


if PRETENDED:
    torch.Generator = Generator  # type: ignore[misc]


def _then_moved(make):
    """A function that makes tensors of other data: on the CPU, then copied to the device, as CUDA does."""

    def call(*args, device=None, **kwargs):
        made = args[0] if args and isinstance(args[0], CudaTensor) else make(*args, **kwargs)
        return made.to(device=device, dtype=kwargs.get("dtype"))

    return call


def _set_device(device) -> None:
    index = device if isinstance(device, int) else torch.device(device).index
    _current[0] = index
    guard.set_current(index)


_current, _count = [0], [1]
_properties = SimpleNamespace(name="Pretended GPU", total_memory=24 * 2**30, major=8, minor=6, multi_processor_count=80)
_nothing = ("_lazy_init", "reset_peak_memory_stats", "empty_cache", "manual_seed", "manual_seed_all", "set_rng_state")
_cuda = {name: lambda *_: None for name in _nothing}
_cuda |= {name: lambda *_, **__: True for name in ("is_available", "is_initialized", "is_bf16_supported")}
_cuda |= {
    "device_count": lambda: _count[0],
    "current_device": lambda: _current[0],
    "set_device": _set_device,
    "synchronize": lambda *_: count_wait("synchronize"),
    "get_device_name": lambda *_: _properties.name,
    "get_device_capability": lambda *_: (_properties.major, _properties.minor),
    "get_device_properties": lambda *_: _properties,
    "max_memory_allocated": lambda *_: 0,
    "memory_allocated": lambda *_: 0,
    "get_rng_state": lambda *_: torch.get_rng_state(),
}
_torch = {name: _then_moved(getattr(torch, name)) for name in ("tensor", "as_tensor", "asarray")}
_patches = [patch.multiple(torch.cuda, **_cuda), patch.multiple(torch, **_torch)]
_mode = PretendedOperations()


def on(devices: int = 1) -> None:
    """Pretend that there are GPUs, from now on."""
    if not PRETENDED:
        return
    _count[0] = devices
    guard.set_count(devices)
    _device_constructors()  # torch remembers which functions `with torch.device(...)` changes: those not patched
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # the data of a CPU parameter cannot be replaced
    for patched in _patches:
        patched.start()
    _mode.__enter__()


def off() -> None:
    """Pretend no longer."""
    if not PRETENDED:
        return
    _mode.__exit__(None, None, None)
    for patched in reversed(_patches):
        patched.stop()
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def report() -> str:
    """The waits by line, the most frequent first, and the mix-ups."""
    return "\n".join([*(f"{n} {kind}" for kind, n in waits.most_common()), *mixups])
