"""LCM's scheduler with NitroFusion's timestep shift (arXiv 2412.02030, and the authors' released scheduler).

Each step uses three noise levels:

1. the latent is at the **timestep** t (`unshifted_timesteps`);
2. the UNet gets the **shifted timestep** t' = floor(t · shift / N) (`timesteps`), and x0 is computed with ᾱ of t';
3. the next latent is re-noised with ᾱ of the next timestep t.
"""

import inspect
from collections.abc import Sequence
from itertools import pairwise
from types import FrameType
from typing import Any

import diffusers
import torch
from diffusers import LCMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_lcm import LCMSchedulerOutput
from diffusers.schedulers.scheduling_utils import (
    KarrasDiffusionSchedulers,
    SchedulerMixin,  # noqa: F401 (pipelines that load this class look its base up here)
)
from torch import Tensor

from nitro_lab.integers import integer

__all__ = ["TimestepShiftLCMScheduler"]


def _check_pipeline(frame: FrameType | None, steps: int, is_shifted: bool) -> None:
    """Refuse what a pipeline would do wrong with this schedule, without an error of its own.

    It would compare `denoising_end` and `denoising_start` with the shifted timesteps; and image-to-image gives no image
    if `strength` leaves no step. A scheduler does not get these arguments, so they are read from the pipeline that sets
    the schedule. A test calls diffusers' pipelines, and fails if they are no longer found.
    """
    for _ in range(2):  # set_timesteps < retrieve_timesteps < the pipeline's __call__
        frame = frame and frame.f_back
        pipe = frame and frame.f_locals.get("self")
        cuts = {name: getattr(pipe, name, None) for name in ("denoising_end", "denoising_start")}
        for name, value in cuts.items():
            if is_shifted and value is not None and 0 < value < 1:
                raise ValueError(
                    f"{name} is {value}, which diffusers cannot apply to shifted timesteps. Pass each part's unshifted "
                    "timesteps instead, for example timesteps=[999, 749] and then, to image-to-image, [499, 249]."
                )
        strength = frame.f_locals.get("strength") if frame and hasattr(pipe, "get_timesteps") else None
        if strength is not None and cuts["denoising_start"] is None and int(steps * strength) < 1:
            raise ValueError(f"strength is {strength}, which leaves none of {steps} steps; pass 1/{steps} or more.")


class TimestepShiftLCMScheduler(LCMScheduler):
    """`diffusers.LCMScheduler` for students distilled with a timestep shift.

    `timesteps` holds the shifted timesteps, since pipelines pass its entries to the UNet; `unshifted_timesteps` holds
    the latent's noise level at each of them. If the shift is `num_train_timesteps`, this is `LCMScheduler` bit for bit.

    Args:
        shifted_timestep: what `num_train_timesteps` is shifted to, an integer from 1 to `num_train_timesteps`; 250 for
            NitroSD-Realism, 500 for NitroSD-Vibrant.
        original_inference_steps: length of the schedule that the student was distilled on, and so the largest number
            of steps that it can take; 4 for NitroSD.
        others: as in `LCMScheduler`.
    """

    timesteps: Tensor
    unshifted_timesteps: Tensor
    _compatibles = [e.name for e in KarrasDiffusionSchedulers] + ["LCMScheduler"]

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        original_inference_steps: int = 4,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        timestep_scaling: float = 10.0,
        rescale_betas_zero_snr: bool = False,
        shifted_timestep: int = 250,
    ):
        hint = " (num_train_timesteps); NitroSD-Realism uses 250, NitroSD-Vibrant 500, and the largest is no shift"
        shifted_timestep = integer("shifted_timestep", shifted_timestep, 1, num_train_timesteps, hint)
        longest = integer("original_inference_steps", original_inference_steps, 1, num_train_timesteps)
        super().__init__(**{name: self.config[name] for name in inspect.signature(LCMScheduler).parameters})
        # For the class name see the last line of this file. diffusers leaves defaults out when it makes another
        # scheduler from this config, and the other's defaults are not SDXL's: so no option is marked as a default.
        registered: dict[str, Any] = {"_class_name": type(self).__name__}
        if "_use_default_values" in self.config:  # not if they all came from a file
            registered["_use_default_values"] = []
        self.register_to_config(**registered, shifted_timestep=shifted_timestep, original_inference_steps=longest)
        self.unshifted_timesteps = self.timesteps
        self.timesteps = self.shift(self.timesteps)

    def shift(self, timesteps: Tensor) -> Tensor:
        """Return the shifted timesteps t' = floor(t · shift / N), integers for integers."""
        return timesteps * self.config.shifted_timestep // self.config.num_train_timesteps

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        original_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        strength: float = 1.0,
    ) -> None:
        """Set the schedule: `num_inference_steps` of LCM's, or your own unshifted `timesteps` in descending order.

        Raises a ValueError if the arguments are not valid, or if two steps would have the same shifted timestep.
        """
        steps, timesteps = self._check_schedule(num_inference_steps, original_inference_steps, timesteps, strength)
        is_shifted = self.config.shifted_timestep != self.config.num_train_timesteps
        _check_pipeline(inspect.currentframe(), steps or len(timesteps or ()), is_shifted)
        before = self.__dict__.copy()
        super().set_timesteps(steps, device, original_inference_steps, timesteps, strength)
        self.num_inference_steps = len(self.timesteps)  # LCM counts the steps that `strength` has cut off, too
        unshifted, shifted = self.timesteps, self.shift(self.timesteps)
        if len(shifted.unique()) < len(shifted):
            self.__dict__.update(before)
            problem = f"shifted_timestep {self.config.shifted_timestep} maps the timesteps {unshifted.tolist()} to"
            advice = "which has duplicates. Use a larger shifted_timestep or fewer steps."
            raise ValueError(f"{problem} {shifted.tolist()}, {advice}")
        self.unshifted_timesteps, self.timesteps = unshifted, shifted

    def _check_schedule(
        self, steps: int | None, longest: int | None, timesteps: Sequence[int] | None, strength: float
    ) -> tuple[int | None, list[int] | None]:
        """Return `set_timesteps`' number of steps or timesteps as checked integers."""
        if (steps is None) == (timesteps is None):
            raise ValueError(f"num_inference_steps is {steps} and timesteps is {timesteps}; give exactly one of them.")
        train_steps = self.config.num_train_timesteps
        if timesteps is None:
            longest = self.config.original_inference_steps if longest is None else longest
            longest = integer("original_inference_steps", longest, 1, train_steps)
            hint = " (original_inference_steps); for more, pass a larger original_inference_steps or your own timesteps"
            wanted = steps = integer("num_inference_steps", steps, 1, longest, hint)
        else:
            timesteps = [integer("an entry of timesteps", t, 0, train_steps - 1) for t in timesteps]
            if not timesteps or any(a <= b for a, b in pairwise(timesteps)):
                raise ValueError(f"timesteps is {timesteps}; give one or more in strictly descending order.")
            wanted, longest = 1, len(timesteps)
        if not 0 < strength <= 1 or int(longest * strength) < wanted:
            raise ValueError(f"strength is {strength}; for {wanted} of {longest} steps, pass {wanted}/{longest} to 1.")
        return steps, timesteps

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> LCMSchedulerOutput | tuple[Tensor, Tensor]:
        """Compute x0 from the UNet's prediction and re-noise it to the next unshifted timestep, unless it is the last.

        `timestep` is the shifted one, an entry of `timesteps`; all else is as in `LCMScheduler.step`.
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        shifted = self.timesteps
        self.timesteps = self.unshifted_timesteps  # LCM's step re-noises to the next entry of `timesteps`
        try:
            return super().step(model_output, timestep, sample, generator, return_dict)
        finally:
            self.timesteps = shifted

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise to clean latents (B, C, H, W), as image-to-image and inpainting pipelines do.

        `timesteps` (B,) are entries of `self.timesteps`; the noise level is that of the unshifted ones.
        """
        if self.config.shifted_timestep != self.config.num_train_timesteps:
            matches = timesteps.reshape(-1, 1) == self.timesteps.to(timesteps.device)
            if self.num_inference_steps is None or not matches.any(1).all():
                advice = "For others use DDPMScheduler.from_config(scheduler.config).add_noise."
                raise ValueError(
                    f"timesteps {timesteps.tolist()} are not all on the schedule of set_timesteps. {advice}"
                )
            timesteps = self.unshifted_timesteps.to(timesteps.device)[matches.int().argmax(1)].reshape(timesteps.shape)
        return super().add_noise(original_samples, noise, timesteps)


# When another scheduler is made from this one's config, diffusers looks this class up in its own namespace to leave out
# what only this class understands. Without this line it would warn about `shifted_timestep`.
diffusers.TimestepShiftLCMScheduler = TimestepShiftLCMScheduler
