"""Images and grids of `canvas`, and the figures of notebooks 01 and 04: they show the data that they are given."""

import io

import pytest
import torch
from PIL import Image

from nitro_lab.evaluation.metrics import radial_spectrum, wilson_interval
from nitro_lab.plots import canvas
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from workbook.figures import refinement
from workbook.figures import scheduler as plots
from workbook.shift import ScheduleStep


def points_of(axis, color: str) -> list[tuple[float, float]]:
    """Data of all lines with a marker in this colour, as (x, y)."""
    lines = [line for line in axis.lines if line.get_color() == color and line.get_marker() != "None"]
    return [(x, y) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_tensors_become_images_and_small_ones_are_enlarged_pixel_by_pixel():
    images = torch.tensor([-1.0, 0.0, 1.0, 1.7]).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert [image.getpixel((0, 0))[0] for image in canvas.to_pil(images)] == [0, 128, 255, 255]
    image = Image.frombytes("L", (64, 64), torch.arange(4096).byte().numpy().tobytes())
    assert canvas.enlarge(image, 384).tobytes() == image.resize((384, 384), Image.Resampling.NEAREST).tobytes()
    assert canvas.enlarge(Image.new("RGB", (1024, 1024)), 384).size == (1024, 1024)


def test_a_grid_shows_every_image_once():
    images = torch.linspace(-1, 1, 3)[:, None, None, None].expand(3, 3, 64, 64)
    axes = canvas.picture_grid({"tensors": images, "images": canvas.to_pil(images)}, ["a", "b", ""]).axes
    assert [axis.get_images()[0].get_array()[0, 0, 0] for axis in axes] == [0, 128, 255] * 2


def test_dollar_signs_in_prompts_and_names_are_shown_as_they_are():
    text = r"$a_b^c$5\$"
    figure, plain = (canvas.picture_grid({name: torch.zeros(1, 3, 8, 8)}, [name]) for name in (text, ""))
    plain.axes[0].set_title(text, fontsize=9, parse_math=False)
    plain.axes[0].set_ylabel(text, rotation=0, ha="right", va="center", labelpad=8, parse_math=False)
    drawn, expected = (Image.open(io.BytesIO(canvas.png(one))).convert("RGB") for one in (figure, plain))
    assert drawn.tobytes() == expected.tobytes()


def test_a_schedule_shows_its_timesteps_and_their_sigmas():
    alphas = TimestepShiftLCMScheduler().alphas_cumprod
    axes = plots.schedule([ScheduleStep(999, 499, 499), ScheduleStep(499, 249, None)], alphas).axes
    assert [y for _, y in points_of(axes[0], plots.LATENT)] == [999, 499]
    assert [y for _, y in points_of(axes[0], plots.SHIFTED)] == [499, 249]
    ends = [text.xy[1] for text in axes[0].texts if text.arrow_patch is not None]
    assert ends == [499, 0, 499, 249, 0]  # shifted, x0, next latent; shifted, x0: no noise after the last step
    sigmas = [((1 - alphas[t]) / alphas[t]).sqrt().item() for t in (499, 249)]
    assert [float(x) for x, _ in points_of(axes[1], plots.SHIFTED)] == pytest.approx(sigmas)


def test_signed_changes_are_red_blue_and_white():
    before, after = torch.zeros(1, 3, 1, 4), torch.tensor([[[[1.0, 0.6, -1.0, 0.0]]]]).expand(1, 3, 1, 4)
    (image,) = refinement.signed_changes(before, after, limit=0.6)
    lighter, at_limit, darker, same = (image.getpixel((column, 0)) for column in range(4))
    assert lighter == at_limit
    assert lighter[0] > 2 * lighter[2]
    assert darker[2] > 2 * darker[0]
    assert min(same) > 240


def test_spectra_are_relative_to_the_reference_and_accuracies_have_their_interval():
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    curves = {"half": radial_spectrum(images / 2), "image": radial_spectrum(images)}
    line = next(x for x in refinement.change_spectra(curves, "image").axes[0].lines if x.get_label() == "half")
    assert line.get_ydata() == pytest.approx([0.25] * 32)
    metrics = {1: {"texture": 0.5, "all": 0.25}, 2: {"texture": 0.75, "all": 0.5}}
    bars = refinement.accuracy_by_steps(metrics, ("texture", "all"), num_images=100).axes[0].containers[0]
    assert bars.lines[2][0].get_segments()[0][:, 1] == pytest.approx(wilson_interval(0.5, 100))
