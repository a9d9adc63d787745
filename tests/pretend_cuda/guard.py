"""The library that lets torch.device("cuda") exist, for torch's CPU build: built at first use, loaded before torch."""

import ctypes
import hashlib
import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["PRETENDED", "guard"]

_FOLDER = Path(str(importlib.util.find_spec("torch").origin)).parent
_VERSION = runpy.run_path(str(_FOLDER / "version.py"))
PRETENDED = not (_VERSION["cuda"] or _VERSION["hip"])


def _load_guard() -> ctypes.CDLL:
    """Build the library that lets the device exist, unless it is in the cache folder, and load it."""
    source, libraries = Path(__file__).with_name("guard.cpp"), _FOLDER / "lib"
    key = hashlib.blake2b(source.read_bytes() + f"{_FOLDER} {_VERSION['git_version']}".encode(), digest_size=8)
    library = user_cache_path("nitro-lab") / f"guard-{key.hexdigest()}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        built = library.with_suffix(f".{os.getpid()}")
        words = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", source, "-o", built]
        words += ["-I", _FOLDER / "include", "-L", libraries, "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{libraries}"]
        subprocess.run(words, check=True)
        built.rename(library)
    ctypes.CDLL(str(libraries / "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(library))


assert "torch" not in sys.modules, "import pretend_cuda before torch, which asks once whether there is a GPU"
guard = _load_guard() if PRETENDED else None
