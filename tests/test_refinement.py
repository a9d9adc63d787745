"""What a step changes: each measure against a closed form, another library, or the pipeline itself."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from nitro_lab.sampling import decode, latent_shape
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from workbook import refinement as study

PROMPTS = ["a small striped blue ring at the top on a meadow background"] * 3


def wave(period: float) -> torch.Tensor:
    """(1, 3, 64, 64), a cosine from left to right with amplitude 1."""
    return torch.cos(2 * torch.pi * torch.arange(64) / period).expand(1, 3, 64, 64)


def seeded_noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def student(untrained_pipeline):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler.from_config(untrained_pipeline.scheduler.config)
    return untrained_pipeline


@pytest.mark.parametrize(("period", "layout"), [(32, 1.0), (16, 1.0), (4, 0.0)])
def test_a_long_wave_is_layout_and_a_short_one_is_detail(period, layout):
    table = study.change_table(torch.stack([torch.zeros(1, 3, 64, 64), wave(period), wave(period) * 2]))
    assert table["mean square"].tolist() == pytest.approx([0.5, 0.5])  # the mean square of a cosine
    assert table["layout"].tolist() == pytest.approx([layout] * 2, abs=1e-6)


def test_a_pixel_changed_if_any_channel_did():
    images = torch.zeros(2, 1, 3, 8, 8)
    images[1, 0, 1, 2, 3] = study.VISIBLE + 0.01
    images[1, 0, 0, 4, 4] = -(study.VISIBLE + 0.01)
    images[1, 0, :, 0, 0] = study.VISIBLE - 0.01
    assert study.change_table(images)["changed pixels"].item() == 2 / 64


def test_similarity_is_the_correlation_of_layouts():
    images = seeded_noise(3, 3, 64, 64)
    expected = np.corrcoef(study.low_pass(images).flatten(1).numpy())
    assert study.layout_similarity(images[:1], images[1:2]).item() == pytest.approx(expected[0, 1], abs=1e-5)
    adjusted = 0.3 * images + 0.2 + 0.1 * wave(3)  # contrast, brightness and detail do not count
    torch.testing.assert_close(study.layout_similarity(images, adjusted), torch.ones(3), rtol=0, atol=1e-2)


def test_the_last_step_is_the_image_of_the_pipeline(student):
    x_T = seeded_noise(3, *latent_shape(student))
    images = study.sample_every_step(student, PROMPTS, x_T, 3, seed=5)
    options = {"latents": x_T.clone(), "num_inference_steps": 3, "guidance_scale": 0, "output_type": "latent"}
    latents = student(PROMPTS, **options, generator=torch.Generator().manual_seed(5)).images
    torch.testing.assert_close(images[-1], decode(student, latents), rtol=1e-3, atol=1e-3)
    assert (images[0] - images[1]).abs().max() > 1e-3
    half = type(student)(**copy.deepcopy(student.components)).to(torch.float16)  # the fixture's modules are shared
    images = study.sample_every_step(half, PROMPTS[:1], x_T[:1], 2)  # from noise in float32
    assert images.dtype == torch.float16
    assert images.isfinite().all()


def test_metrics_are_read_by_model_and_number_of_steps(tmp_path):
    rows = {"model": list("abaa"), "steps": [4, 1, 1, 1], "images": [10, 10, 10, 20], "FD": range(4)}
    pd.DataFrame(rows).to_csv(tmp_path / "metrics.csv")
    tables = study.read_metrics(tmp_path / "metrics.csv", 10)
    found = {name: rows[["steps", "FD"]].to_numpy().tolist() for name, rows in tables.items()}
    assert found == {"a": [[1, 2], [4, 0]], "b": [[1, 1]]}
    with pytest.raises(ValueError, match=r"metrics\.csv.*30"):
        study.read_metrics(tmp_path / "metrics.csv", 30)
