"""A research workbook on NitroFusion: one-step diffusion by adversarial distillation with a pool of critics."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nitro_lab.checkpoints import load_pipeline
    from nitro_lab.loading.unet_file import load_unet
    from nitro_lab.scheduler import TimestepShiftLCMScheduler

__all__ = ["TimestepShiftLCMScheduler", "load_pipeline", "load_unet"]

HOMES = {
    "TimestepShiftLCMScheduler": "nitro_lab.scheduler",
    "load_pipeline": "nitro_lab.checkpoints",
    "load_unet": "nitro_lab.loading.unet_file",
}

# Diffusers imports image processors that nothing here uses; transformers then notes that they lack torchvision.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision (not installed)" not in record.getMessage()
)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: diffusers takes seconds, and the world needs none of it."""
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
