"""Hashes of code: with the same hashes, two runs did the same.

Bytecode is hashed, since a notebook's source cannot be read in other processes. It differs between versions of Python;
comments and the text of docstrings do not count.
"""

import hashlib
import inspect
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pkgutil import walk_packages
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch

import nitro_lab

__all__ = ["code_hash", "library_hash"]

# Of the zoo, what a run uses is one of its parts.
_ROOMS = (
    *("randomness", "devices", "scheduler", "sampling", "vae", "backbones", "discriminators", "training"),
    *("evaluation", "mini"),
)


def code_hash(part: Any) -> str:
    """A hash of what a function, class or object does, and of the values that it refers to."""
    return hashlib.blake2b(_describe(part).encode(), digest_size=8).hexdigest()


def library_hash() -> str:
    """A hash of the functions, classes and constants that results depend on, patched ones as they are now."""
    found = [module.name for module in walk_packages(nitro_lab.__path__, "nitro_lab.")]
    names = [name for name in found if name.split(".")[1] in _ROOMS and ".zoo" not in name]
    texts = [_describe_members(vars(import_module(name))) for name in names]
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


def _describe_members(members: Mapping[str, Any]) -> str:
    """The functions of a module or class, those of its classes, and its constants."""
    texts = []
    for name, value in members.items():
        if name.startswith(("__compiled_fn", "__resume_at")):  # of torch.compile
            continue
        function = getattr(value, "__func__", getattr(value, "fget", value))  # of methods and properties
        if inspect.isfunction(function):
            texts.append(f"{name} {_describe_code(function.__code__)} {_describe(function.__defaults__)}")
        elif inspect.isclass(value):
            own = value.__module__.startswith("nitro_lab.")
            texts.append(f"{name} {_describe_members(vars(value)) if own else value.__qualname__}")
        elif isinstance(value, int | float | str | tuple | dict) and not name.startswith("__"):
            texts.append(f"{name} {_describe(value)}")
    return "\n".join(texts)


def _describe(part: Any, parents: tuple[int, ...] = ()) -> str:
    """What a part does, as text: the bytecode of its classes and functions, and the values that they refer to.

    `parents` are ids of the objects that lead to this one, which ends circular references.
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
        members = vars(part).items()  # without those that Python added
        own = {name: value for name, value in members if inspect.isfunction(value) or not name.startswith("__")}
        return f"{part.__qualname__} {_describe((part.__bases__, own), parents)}"
    if inspect.isfunction(part):
        return _describe_function(part, parents)
    if type(part).__module__ == "builtins":
        return repr(part)
    return _describe((type(part), {} if _is_library(type(part)) else vars(part)), parents)


def _describe_function(function: FunctionType, parents: tuple[int, ...]) -> str:
    """The bytecode of a function, its defaults, and the variables that it uses."""
    used, known = inspect.getclosurevars(function), function.__globals__
    inner = {name: known[name] for name in _inner_names(function.__code__) if name in known}
    variables = {k: value for k, value in {**used.globals, **used.nonlocals, **inner}.items() if k != "__class__"}
    values = (function.__defaults__, function.__kwdefaults__, variables)
    return f"{_describe_code(function.__code__)} {_describe(values, parents)}"


def _inner_names(code: CodeType) -> list[str]:
    """Names that functions and comprehensions inside a function use."""
    inner = [value for value in code.co_consts if isinstance(value, CodeType)]
    return [name for value in inner for name in (*value.co_names, *_inner_names(value))]


def _describe_code(code: CodeType) -> str:
    """Bytecode with its names and constants, without the docstring, the functions inside it included."""
    constants: list[object] = []
    is_function = code.co_flags & inspect.CO_OPTIMIZED and (code.co_name[0] != "<" or code.co_name == "<lambda>")
    for value in code.co_consts[1 if is_function else 0 :]:  # a function's first is its docstring, or None
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
    return getattr(part, "__module__", None) or "builtins"
