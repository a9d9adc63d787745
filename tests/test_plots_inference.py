"""Pictures of the inference notebook: they show the numbers that they are given, whole, and once."""

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from nitro_lab.plots import canvas
from nitro_lab.plots import inference as plots
from nitro_lab.studies.timing import CallTimes

CAPTION = "a large checkered orange triangle at the bottom on a meadow background"
TIMES = {
    "1-step student": CallTimes(0.01, 0.04, 0.02, 0.03, fastest=0.09, slowest=0.13),
    "25-step teacher": CallTimes(0.01, 1.9, 0.02, 0.07, fastest=1.8, slowest=2.4),
}


def assert_whole(figure: Figure) -> None:
    """Nothing reaches over the figure's edge, and pyplot will not show it a second time."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 > -0.01
    assert box.y0 > -0.01
    assert box.x1 < width + 0.01
    assert box.y1 < height + 0.01
    assert plt.get_fignums() == []


def test_tensors_become_pictures_with_the_same_colours():
    images = torch.tensor([-1.0, 0.0, 1.0, 1.7]).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert [picture.getpixel((0, 0)) for picture in canvas.to_pil(images)] == [
        (0, 0, 0),
        (128, 128, 128),
        (255, 255, 255),
        (255, 255, 255),
    ]


def test_small_pictures_are_enlarged_pixel_by_pixel_and_large_ones_left_alone():
    picture = Image.new("RGB", (64, 64), "black")
    picture.putpixel((1, 0), (255, 0, 0))
    large = canvas.enlarge(picture, 384)
    assert large.size == (384, 384)
    assert large.crop((6, 0, 12, 6)).getcolors() == [(36, (255, 0, 0))]
    assert large.getpixel((5, 0)) == large.getpixel((12, 0)) == (0, 0, 0)
    assert canvas.enlarge(Image.new("RGB", (1024, 1024)), 384).size == (1024, 1024)


def test_grid_names_rows_and_columns_and_holds_every_picture():
    images = torch.linspace(-1, 1, 3)[:, None, None, None].expand(3, 3, 64, 64)
    figure = canvas.picture_grid(
        {"25-step teacher": images, CAPTION: canvas.to_pil(images)}, [CAPTION, "t = 999\ntold t' = 249", ""]
    )
    assert_whole(figure)
    axes = figure.axes
    assert [axis.get_images()[0].get_array()[0, 0, 0] for axis in axes] == [0, 128, 255] * 2
    assert axes[0].get_title().replace("\n", " ") == CAPTION
    assert axes[1].get_title() == "t = 999\ntold t' = 249"
    assert [axes[i].get_ylabel().replace("\n", " ") for i in (0, 3)] == ["25-step teacher", CAPTION]


def test_grid_refuses_a_row_of_another_length():
    with pytest.raises(ValueError, match="zip"):
        canvas.picture_grid({"two": torch.zeros(2, 3, 8, 8)}, ["one", "two", "three"])


def test_spectra_show_power_and_its_share_of_the_reference():
    frequency = torch.arange(1, 33) / 64
    world, soft = 1 / frequency, 0.3 / frequency
    figure = plots.spectra({"renders": (frequency, world), "1-step student": (frequency, soft)}, "renders")
    assert_whole(figure)
    left, right = figure.axes
    assert torch.equal(torch.tensor(left.lines[1].get_ydata()), soft)
    assert torch.allclose(torch.tensor(right.lines[1].get_ydata()), torch.full((32,), 0.3))
    assert torch.tensor(right.lines[0].get_ydata()).unique().tolist() == [1]


def test_confusions_say_each_share_and_what_was_never_asked_for():
    shares = torch.tensor([[0.75, 0.25], [torch.nan, torch.nan]])
    figure = plots.confusions({"teacher": shares, "student": shares}, ("striped", "checkered"))
    left, right = figure.axes
    assert [word.get_text() for word in left.texts] == ["75", "25", "–", "–"]
    assert [word.get_text() for word in left.get_yticklabels()] == ["striped", "checkered"]
    assert right.get_title() == "student"
    assert_whole(figure)


def test_time_bars_add_up_to_the_whole_call():
    figure = plots.time_bars(TIMES)
    assert_whole(figure)
    left, right = figure.axes
    for row, call in enumerate(TIMES.values()):
        bars = [
            [bar for bar in axis.patches if round(bar.get_y() + bar.get_height() / 2) == row] for axis in (left, right)
        ]
        assert [bar.get_width() for bar in bars[0]] == pytest.approx(
            [1e3 * s for s in (call.text, call.unet, call.vae, call.rest)]
        )
        assert sum(bar.get_width() for bar in bars[1]) == pytest.approx(1)
    assert [text.get_text() for text in left.texts] == ["100 ms", "2000 ms"]


def test_throughput_shows_every_repeat_and_the_medians():
    speeds = {1: [20.0, 22.0, 21.0], 2: [30.0, 38.0, 34.0], 64: [50.0, 50.0, 10.0]}
    figure = plots.throughput_curve(speeds)
    assert_whole(figure)
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines[:3]] == list(speeds.values())
    assert list(left.lines[3].get_ydata()) == [21, 34, 50]
    assert list(right.lines[3].get_ydata()) == pytest.approx([1 / 21, 2 / 34, 64 / 50])


def test_full_size_bars_count_two_bytes_a_weight():
    figure = plots.full_size_bars({"UNet": 2_500_000_000, "VAE": 100_000_000}, {"VAE": 10 * 10**12, "UNet": 7 * 10**12})
    assert_whole(figure)
    assert [[bar.get_width() for bar in axis.patches] for axis in figure.axes] == [[5.0, 0.2], [7.0, 10.0]]
    assert "5.20 GB" in figure.axes[0].get_title()
    assert "17.0 TFLOP" in figure.axes[1].get_title()
