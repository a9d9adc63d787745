"""A research workbook on NitroFusion: one-step diffusion by adversarial distillation with a pool of discriminators."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nitro_lab.models import load_pipeline, load_unet
    from nitro_lab.scheduler import TimestepShiftLCMScheduler

__all__ = ["TimestepShiftLCMScheduler", "load_pipeline", "load_unet"]

_MODULES = {"TimestepShiftLCMScheduler": "scheduler", "load_pipeline": "models", "load_unet": "models"}

# diffusers imports image processors that nothing here uses; transformers then notes that they lack torchvision.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision (not installed)" not in record.getMessage()
)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, since importing diffusers takes seconds."""
    if name in _MODULES:
        return getattr(import_module(f"nitro_lab.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
