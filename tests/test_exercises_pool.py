"""Exercises of notebooks 03 and 04: right answers are the library's, and wrong ones get hints."""

import numpy as np
import pandas as pd
import pytest
import torch

from nitro_lab.discriminators.losses import GAN_LOSSES
from nitro_lab.sampling import sample_student_step
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from workbook.exercises import pool, refinement
from workbook.exercises.checker import NO_ANSWER
from workbook.pool_dynamics import PoolSettings, untrained_fraction, updates_per_lifetime

RESPONSE = np.zeros((2, 4, 3, 10))
RESPONSE[0, 3] = 9.0
RESPONSE[1] = np.array([0.5, -0.9, 0.2, 0.1])[:, None, None]
LOSSES = [GAN_LOSSES[name].uninformed_loss for name in ("hinge", "non_saturating")]
PAPER = PoolSettings()
CHANGES = pd.DataFrame({"mean square": [0.06, 0.04, 0.11], "layout": [0.2, 0.75, 0.2]})
TABLES = {"mini": pd.DataFrame({"steps": [1, 2, 3, 4], "calls": [1, 2, 3, 4], "FD": [5.0, 3.0, 4.0, 2.0]})}


def losses(answer):
    return pool.uninformed_losses(*(answer or (None, None)))


def sampled_k(step_sampling: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.tensor([sample_student_step(4, step_sampling, 0.0, generator).k for _ in range(20_000)])


def shared_timestep() -> int:
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=250)
    scheduler.set_timesteps(4)
    return scheduler.unshifted_timesteps[2].item()


@pytest.mark.parametrize(
    ("exercise", "right", "wrong"),
    [
        (pool.panel_size, [30], [120, 480, 10]),
        (losses, [LOSSES, (2, 1.386)], [(2, 0.693), (1, 1.386), (2, 2)]),
        (pool.updates, [updates_per_lifetime(PAPER), 6.2], [100, 25, 3, 0]),
        (pool.untrained_heads, [untrained_fraction(PAPER), 0.139], [0.01, 0.16, 13.9, 0.5]),
        (pool.slower_refresh, [PAPER.update_probability / 100], [0.0625, 0.01, 0]),
        (lambda t: pool.blur_noise_level(t, RESPONSE, ["color", "blur"], (10, 250, 500, 750)), [250], [10, 100]),
        (refinement.calls_per_fake, [round(sampled_k("any_step").double().mean().item(), 1)], [1.5, 4]),
        (refinement.first_step_share, [0.521, (sampled_k("any_schedule") == 1).double().mean()], [0.25, 0.9]),
        (refinement.shared_timestep, [499, shared_timestep()], [124, 3]),
        (lambda answer: refinement.largest_layout_change(answer, CHANGES), [3], [2, 4]),
        (lambda answer: refinement.steps_for_budget(answer, TABLES), [2], [4, 3]),
    ],
)
def test_exercise(exercise, right, wrong):
    assert exercise(None) == NO_ANSWER
    assert all(exercise(answer).startswith("Right") for answer in right)
    assert all(exercise(answer).startswith("Not yet") for answer in wrong)
