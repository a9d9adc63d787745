"""A hash of what code does: to know tomorrow whether a head from a notebook's cell is the one that was trained today.

`inspect.getsource` has no source of a class that a cell of a closed notebook defined, and pickles differ from session
to session. So bytecode is hashed, with all that it refers to: constants, defaults, closures, bases, global names.
Comments may change; another version of Python has other bytecode, so it starts afresh. Libraries are taken by name.
"""

import dis
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

LIBRARIES = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib"))
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), torch.dtype, torch.device)
CODE_OWNERS = (FunctionType, staticmethod, classmethod, property)


def code_fingerprint(idea: Any) -> str:
    """A hash of a class, a function, or an object with its attributes."""
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces(idea, {}):
        digest.update(f"{len(piece)}:{piece}".encode())
    return digest.hexdigest()


def pieces(thing: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[str]:
    """What decides what a thing does, as text.

    Args:
        seen: number and object of each that was met, by id: it ends circles, and keeps ids from being used again.
    """
    yield type(thing).__qualname__
    if isinstance(thing, PLAIN):
        yield repr(thing)
    elif is_library(thing):
        yield f"{getattr(thing, '__module__', '')}.{thing.__qualname__}"
    elif isinstance(thing, ModuleType):
        yield thing.__name__
    elif isinstance(thing, torch.Tensor):
        yield repr(thing.tolist())
    elif isinstance(thing, CodeType):
        yield f"{thing.co_code.hex()} {thing.co_names} {thing.co_varnames} {thing.co_freevars}"
        yield from pieces(thing.co_consts, seen)
    elif isinstance(thing, tuple):
        yield from in_order(enumerate(thing), seen)
    elif isinstance(thing, (set, frozenset)):
        yield from sorted(code_fingerprint(member) for member in thing)  # their order is chance
    elif id(thing) in seen:
        yield str(seen[id(thing)][0])
    else:
        seen[id(thing)] = (len(seen), thing)
        yield from in_order(parts_of(thing).items(), seen)


def in_order(parts: Iterable[tuple[Any, Any]], seen: dict[int, tuple[int, Any]]) -> Iterator[str]:
    """The pieces of named parts."""
    for name, part in parts:
        yield str(name)
        yield from pieces(part, seen)


def parts_of(thing: Any) -> dict[str, Any]:
    """What a thing is made of that may lead back to itself."""
    if isinstance(thing, FunctionType):
        looked_up = {name: thing.__globals__[name] for name in names_in(thing.__code__) if name in thing.__globals__}
        cells = tuple(content_of(cell) for cell in thing.__closure__ or ())
        defaults = {"defaults": thing.__defaults__, "keyword defaults": thing.__kwdefaults__}
        return {"code": thing.__code__, "closure": cells} | defaults | looked_up
    if isinstance(thing, type):
        return {"bases": thing.__bases__} | {name: part for name, part in vars(thing).items() if matters(name, part)}
    if isinstance(thing, (MethodType, staticmethod, classmethod)):
        return {"self": getattr(thing, "__self__", None), "function": thing.__func__}
    if isinstance(thing, property):
        return {"get": thing.fget, "set": thing.fset}
    if isinstance(thing, partial):
        return {"function": thing.func, "positional": thing.args, "named": thing.keywords}
    if isinstance(thing, Mapping):
        return {f"key {key}": value for key, value in thing.items()}
    if isinstance(thing, list):
        return {str(place): member for place, member in enumerate(thing)}
    return {"type": type(thing)} | getattr(thing, "__dict__", {})


def names_in(code: CodeType) -> list[str]:
    """Global names that code and the functions in it look up; in the same order in every session."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in names_in(const)]
    return sorted({*names, *inner})


def content_of(cell: Any) -> Any:
    """A closure's variable; it may have no value yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def matters(name: str, part: Any) -> bool:
    """Python's own notes in a class (line numbers, annotations, the docstring) do not."""
    return not name.startswith(("__", "_abc_")) or isinstance(part, CODE_OWNERS)


def is_library(thing: Any) -> bool:
    """Is it a class or function of somebody else's: built in, or from an installed package?"""
    if isinstance(thing, BuiltinFunctionType):
        return True
    home = getattr(thing, "__module__", None) or ""
    if not isinstance(thing, (type, FunctionType)) or home.split(".")[0] in ("__main__", "nitro_lab"):
        return False
    module = sys.modules.get(home)
    file = getattr(module, "__file__", None)
    return module is not None and (file is None or str(Path(file).resolve()).startswith(LIBRARIES))
