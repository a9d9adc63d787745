"""The parts of a training that can be replaced by code: heads, views, GAN loss, which heads are sampled and refreshed.

Settings are for what a name or a number can say, `Parts` for the rest. A class of ten lines is enough:

    TrainingRun(DistillConfig(), Path("build/mine"), Parts(head=MyHead))
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.losses import GAN_LOSSES, GANLoss
from nitro_lab.discriminators.selection import RefreshPolicy, SamplePolicy, refresh_uniform, sample_uniform
from nitro_lab.discriminators.views import View, make_view
from nitro_lab.training.config import DistillConfig

__all__ = ["HeadFactory", "Parts"]

HeadFactory = Callable[..., nn.Module]


@dataclass(frozen=True)
class Parts:
    """Parts of a training; None stands for what the settings say.

    Args:
        head: makes one discriminator head from a channel count, in place of `head_width` and `head_depth`; what a
            head may do is described in `nitro_lab.discriminators.checks`.
        views: name -> view, in place of `views`, `crop_size` and `crops_per_image`.
        gan_loss: in place of the loss that the settings name.
        sample_heads, select_refreshed: which heads are sampled and which are re-initialized, see
            `nitro_lab.discriminators.selection`.

    Raises:
        ValueError: if a part is of the wrong type.
    """

    head: HeadFactory | None = None
    views: Mapping[str, View] | None = None
    gan_loss: GANLoss | None = None
    sample_heads: SamplePolicy | None = None
    select_refreshed: RefreshPolicy | None = None

    def __post_init__(self) -> None:
        """Refuse parts of the wrong type before anything is loaded."""
        for name in ("head", "sample_heads", "select_refreshed"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a class or a function.")
        if self.views is not None and not (isinstance(self.views, Mapping) and self.views):
            raise ValueError(f"views is {self.views!r}; give a dictionary of one or more views, by name.")
        if self.gan_loss is not None and not isinstance(self.gan_loss, GANLoss):
            raise ValueError(f"gan_loss is {self.gan_loss!r}; give a GANLoss(discriminator, generator).")

    def make_head(self, config: DistillConfig) -> HeadFactory:
        """The function that makes a head."""
        return self.head or partial(ConvHead, width=config.head_width, depth=config.head_depth)

    def make_views(self, config: DistillConfig) -> dict[str, View]:
        """The views by name, in the pool's order."""
        if self.views is not None:
            return dict(self.views)
        return {name: make_view(name, config.crop_size, config.crops_per_image) for name in config.views}

    def make_loss(self, config: DistillConfig) -> GANLoss:
        """The losses of both sides."""
        return self.gan_loss or GAN_LOSSES[config.gan_loss]

    def make_selection(self) -> tuple[SamplePolicy, RefreshPolicy]:
        """Which heads are sampled, and which are re-initialized."""
        return self.sample_heads or sample_uniform, self.select_refreshed or refresh_uniform

    def code_hashes(self) -> dict[str, str]:
        """A hash of what each part does, by name: with the same hashes, two runs have the same parts.

        Bytecode is hashed, since a notebook's source cannot be read in other processes. It differs between versions of
        Python.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: hashlib.blake2b(_describe(part).encode(), digest_size=8).hexdigest()
            for name, part in given.items()
            if part is not None
        }


def _describe(part: Any, parents: tuple[int, ...] = ()) -> str:
    """What a part does, as text: the bytecode of its classes and functions, and the values that they refer to.

    Args:
        parents: ids of the objects that lead to this one, which ends circular references.
    """
    if id(part) in parents:
        return "circular"
    parents = (*parents, id(part))
    if isinstance(part, torch.Tensor | np.ndarray):
        return f"{part.dtype} {part.tolist()}"
    if isinstance(part, partial):
        return f"partial {_describe((part.func, part.args, part.keywords), parents)}"
    if isinstance(part, property):
        return _describe(part.fget, parents)
    if isinstance(part, Mapping):
        return " ".join(f"{key}: {_describe(value, parents)}" for key, value in part.items())
    if isinstance(part, tuple | list):
        return " ".join(_describe(value, parents) for value in part)
    if inspect.ismethod(part):
        return _describe((part.__self__, part.__func__), parents)
    if inspect.ismodule(part):
        return part.__name__
    if (isinstance(part, type) or inspect.isroutine(part)) and _is_library(part):
        return f"{_module_of(part)}.{getattr(part, '__qualname__', type(part).__qualname__)}"
    if isinstance(part, type):
        own = {name: value for name, value in vars(part).items() if _is_own(name, value)}
        return f"{part.__qualname__} {_describe((part.__bases__, own), parents)}"
    if inspect.isfunction(part):
        return _describe_function(part, parents)
    if type(part).__module__ == "builtins":
        return repr(part)
    return _describe((type(part), {} if _is_library(type(part)) else vars(part)), parents)


def _describe_function(function: FunctionType, parents: tuple[int, ...]) -> str:
    """The bytecode of a function, its defaults, and the variables that it uses."""
    used = inspect.getclosurevars(function)
    variables = {name: value for name, value in {**used.globals, **used.nonlocals}.items() if name != "__class__"}
    values = (function.__defaults__, function.__kwdefaults__, variables)
    return f"{_describe_code(function.__code__)} {_describe(values, parents)}"


def _describe_code(code: CodeType) -> str:
    """Bytecode with its names and constants, the functions inside it included."""
    constants: list[object] = []
    for value in code.co_consts:
        if isinstance(value, CodeType):
            constants.append(_describe_code(value))
        else:  # the order of a set differs between processes
            constants.append(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _is_library(part: Any) -> bool:
    """Whether a class or function belongs to Python or an installed library, which its name identifies."""
    name = _module_of(part)
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return name.split(".")[0] in sys.stdlib_module_names - {"__main__"} or "site-packages" in file


def _module_of(part: Any) -> str:
    """Name of the module that defines a class or function."""
    return getattr(part, "__module__", None) or "builtins"


def _is_own(name: str, value: Any) -> bool:
    """Whether a class attribute was written by its author, and not added by Python."""
    return inspect.isfunction(value) or not name.startswith("__")
