"""The scheduler of NitroFusion: LCM's schedule, with a UNet that is told an earlier time than the true one.

Three clocks, kept apart on purpose (arXiv 2412.02030 and the authors' released scheduler):

1. the latent is at the noise level of the **true** timestep t (`true_timesteps`);
2. the UNet is **told** t' = floor(t · shift / N) (`timesteps`), and x0 is read off with ᾱ of t';
3. the next latent is re-noised with ᾱ of the next **true** timestep.
"""

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

import diffusers
import torch
from diffusers import LCMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_lcm import LCMSchedulerOutput
from diffusers.schedulers.scheduling_utils import (
    KarrasDiffusionSchedulers,
    SchedulerMixin,  # noqa: F401 (pipelines that load this class look its base up here)
)


class TimestepShiftLCMScheduler(LCMScheduler):
    """`diffusers.LCMScheduler` for students that were distilled under a shifted timestep.

    `timesteps` holds what the UNet is told, since that is what every pipeline hands to its UNet; `true_timesteps`
    holds, entry by entry, the noise level that the latent really has. A shift equal to `num_train_timesteps` is no
    shift: the class is then `LCMScheduler`, bit for bit.

    Args:
        shifted_timestep: what the UNet is told in place of `num_train_timesteps`, from 1 to `num_train_timesteps`;
            250 for NitroSD-Realism, 500 for NitroSD-Vibrant.
        original_inference_steps: length of the schedule that the student was distilled on, and so the most steps
            that it can take; 4 for NitroSD.

    All other options are those of `LCMScheduler`.

    Raises:
        ValueError: if `shifted_timestep` is no integer, or out of range.
    """

    timesteps: torch.Tensor
    true_timesteps: torch.Tensor
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
        if not isinstance(shifted_timestep, int) or not 1 <= shifted_timestep <= num_train_timesteps:
            raise ValueError(
                f"shifted_timestep is {shifted_timestep}; it must be an integer from 1 to num_train_timesteps "
                f"({num_train_timesteps}). NitroSD-Realism uses 250, NitroSD-Vibrant 500; "
                f"{num_train_timesteps} is no shift."
            )
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            original_inference_steps=original_inference_steps,
            clip_sample=clip_sample,
            clip_sample_range=clip_sample_range,
            set_alpha_to_one=set_alpha_to_one,
            steps_offset=steps_offset,
            prediction_type=prediction_type,
            thresholding=thresholding,
            dynamic_thresholding_ratio=dynamic_thresholding_ratio,
            sample_max_value=sample_max_value,
            timestep_spacing=timestep_spacing,
            timestep_scaling=timestep_scaling,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )
        # The class: see the last line of this file. No option counts as a default, since diffusers leaves defaults out
        # when it makes another scheduler from this config, and the other's own defaults are not SDXL's.
        self.register_to_config(_class_name=type(self).__name__, _use_default_values=[])
        self.true_timesteps = self.timesteps
        self.timesteps = self.told(self.true_timesteps)

    def told(self, true_timesteps: torch.Tensor) -> torch.Tensor:
        """t' = floor(t · shift / N): what the UNet is told when the latent is at t. Integers in, integers out."""
        return true_timesteps * self.config.shifted_timestep // self.config.num_train_timesteps

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        original_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        strength: float = 1.0,
    ) -> None:
        """Choose the schedule: `num_inference_steps` of LCM's, or your own **true** `timesteps`, descending.

        Raises:
            ValueError: if the number of steps, the true timesteps or `strength` (above 0, up to 1: the share of the
                schedule that is left) do not fit, or if two steps would be told the same timestep.
        """
        if timesteps is None:
            self.check_steps(num_inference_steps, original_inference_steps, strength)
        else:
            self.check_timesteps(num_inference_steps, timesteps, strength)
        before = self.__dict__.copy()
        super().set_timesteps(num_inference_steps, device, original_inference_steps, timesteps, strength)
        true, told = self.timesteps, self.told(self.timesteps)
        if len(told.unique()) < len(told):
            self.__dict__.update(before)
            raise ValueError(
                f"shifted_timestep {self.config.shifted_timestep} tells the UNet {told.tolist()} at the true timesteps "
                f"{true.tolist()}: two steps become the same. Use a larger shifted_timestep or fewer steps."
            )
        self.true_timesteps, self.timesteps = true, told

    def check_steps(
        self, num_inference_steps: int | None, original_inference_steps: int | None, strength: float
    ) -> None:
        """Refuse a number of steps that LCM's schedule, or what `strength` leaves of it, does not have."""
        longest = self.config.original_inference_steps if original_inference_steps is None else original_inference_steps
        train = self.config.num_train_timesteps
        if not isinstance(longest, int) or not 1 <= longest <= train:
            raise ValueError(f"original_inference_steps is {longest}; it must be an integer from 1 to {train}.")
        if num_inference_steps is None:
            raise ValueError("Give num_inference_steps, or your own true timesteps=[...].")
        if not isinstance(num_inference_steps, int):
            raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be an integer.")
        if not 1 <= num_inference_steps <= longest:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}; it must be from 1 to original_inference_steps "
                f"({longest}), since the steps are picked from that schedule. For more steps pass a larger "
                "original_inference_steps, or your own true timesteps=[...]."
            )
        self.check_strength(strength, longest, num_inference_steps)

    def check_timesteps(self, num_inference_steps: int | None, timesteps: Sequence[int], strength: float) -> None:
        """Refuse true timesteps that are no schedule."""
        last = self.config.num_train_timesteps - 1
        if num_inference_steps is not None:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps} and timesteps is {timesteps}: give one of the two."
            )
        in_range = all(isinstance(t, Integral) and 0 <= t <= last for t in timesteps)
        if not len(timesteps) or not in_range or not all(a > b for a, b in pairwise(timesteps)):
            raise ValueError(
                f"timesteps is {timesteps}; true timesteps must be at least one integer from 0 to {last}, in strictly "
                f"descending order, for example [{last}, {last // 2}]."
            )
        self.check_strength(strength, len(timesteps), 1)

    @staticmethod
    def check_strength(strength: float, steps: int, wanted: int) -> None:
        """Refuse a strength that leaves less of a schedule than is wanted."""
        left = int(steps * strength)
        if not 0 < strength <= 1 or left < wanted:
            raise ValueError(
                f"at strength {strength} of {steps} steps {left} {'is' if left == 1 else 'are'} left, and {wanted} "
                f"{'is' if wanted == 1 else 'are'} wanted. strength must be from {wanted}/{steps} to 1, or choose "
                "fewer steps."
            )

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> LCMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """One step: x0 from the noise prediction, then, unless it was the last, fresh noise at the next true level.

        Args:
            model_output: the UNet's prediction, (B, C, H, W).
            timestep: the **told** timestep, an entry of `timesteps`.
            sample: the latent x_t at the true level, (B, C, H, W).
            generator: source of the fresh noise.
            return_dict: return an `LCMSchedulerOutput` (`prev_sample`, `denoised`), else a tuple of the two.
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        told = self.timesteps
        self.timesteps = self.true_timesteps  # LCM's step re-noises to the next entry of `timesteps`: the third clock
        try:
            return super().step(model_output, timestep, sample, generator, return_dict)
        finally:
            self.timesteps = told

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noise clean latents to where a schedule begins, as image-to-image and inpainting pipelines do.

        Args:
            original_samples: x0, (B, C, H, W).
            noise: (B, C, H, W).
            timesteps: (B,) **told** timesteps, entries of `timesteps`; the noise is that of their true timesteps.

        Raises:
            ValueError: if a timestep is not on the schedule.
        """
        return super().add_noise(original_samples, noise, self.true_of_told(timesteps))

    def true_of_told(self, told: torch.Tensor) -> torch.Tensor:
        """The true timesteps that belong to these entries of `timesteps`."""
        if self.config.shifted_timestep == self.config.num_train_timesteps:
            return told
        matches = told.reshape(-1, 1) == self.timesteps.to(told.device)
        if self.num_inference_steps is None or not matches.any(1).all():
            raise ValueError(
                f"timesteps {told.tolist()} are not all on the schedule: call set_timesteps, then pass entries of "
                f"scheduler.timesteps. To add noise at a true timestep of your own, use "
                "DDPMScheduler.from_config(scheduler.config).add_noise."
            )
        return self.true_timesteps.to(told.device)[matches.int().argmax(1)].reshape(told.shape)


# When another scheduler is made from this one's config, diffusers looks the writer's name up in its own namespace, to
# leave out what only the writer understands. Without this line it would warn about `shifted_timestep` every time.
diffusers.TimestepShiftLCMScheduler = TimestepShiftLCMScheduler
