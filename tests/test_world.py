"""The captioned world: captions, the split, the palette."""

import hashlib
import re

import pytest
import torch

from nitro_lab.mini.render import COLORS, draw_background
from nitro_lab.mini.world import FACTORS, all_scenes, caption, draw_scenes, split_scenes, vocabulary

HELD_OUT_HASH = "dbaa7ee8a764cae9a5a1d9ef68076b1fbdec0e40d3ebd83f11d539682521b37c"
NEAR = 35  # CIE76 colour difference


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return [caption(scene) for scene in all_scenes()]


def parse(text: str) -> dict[str, str]:
    """Factors that a caption names: every value of every factor is a word of its own."""
    words = re.findall(r"\w+", text)
    return {name: value for name, values in FACTORS.items() for value in values if value in words}


def test_captions_read_as_promised():
    values = ("large", "striped", "red", "star", "top", "sunset")
    scene = torch.tensor([FACTORS[name].index(value) for name, value in zip(FACTORS, values, strict=True)])
    assert caption(scene) == "a large striped red star at the top on a sunset background"


def test_there_are_9600_different_captions(captions):
    assert len(captions) == len(set(captions)) == 9600


def test_captions_tell_all_six_factors_and_parse_back(captions):
    for scene, text in zip(all_scenes().tolist(), captions, strict=True):
        expected = {name: values[i] for i, (name, values) in zip(scene, FACTORS.items(), strict=True)}
        assert parse(text) == expected


def test_unsaid_factors_are_not_in_the_caption():
    scene = all_scenes()[-1]
    for left_out, name in enumerate(FACTORS):
        said = torch.ones(6, dtype=torch.bool)
        said[left_out] = False
        assert parse(caption(scene, said)).keys() == FACTORS.keys() - {name}
    assert caption(scene, torch.zeros(6, dtype=torch.bool)) == "a shape"


def test_articles_fit_the_following_word():
    said = torch.tensor([False, False, True, True, False, True])
    scene = torch.tensor([0, 0, FACTORS["color"].index("orange"), FACTORS["shape"].index("ring"), 0, 2])
    assert caption(scene, said) == "an orange ring on an ocean background"


def test_vocabulary_is_the_words_of_the_captions(captions):
    assert set(vocabulary()) == {word for text in captions for word in text.split()} | {"shape", "an"}


def test_split_is_fixed_and_disjoint(captions):
    train, held_out = split_scenes()
    assert (len(train), len(held_out)) == (8640, 960)
    texts = [caption(scene) for scene in held_out]
    assert {caption(scene) for scene in train}.isdisjoint(texts)
    assert {caption(scene) for scene in train}.union(texts) == set(captions)
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == HELD_OUT_HASH


def test_every_value_of_every_factor_is_on_both_sides_of_the_split():
    for side in split_scenes():
        for column, values in zip(side.T, FACTORS.values(), strict=True):
            assert column.unique().tolist() == list(range(len(values)))


def test_drawn_scenes_are_of_the_given_ones_and_follow_the_generator():
    _, held_out = split_scenes()
    first, again, other = (draw_scenes(held_out, 50, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert {tuple(row) for row in first.tolist()} <= {tuple(row) for row in held_out.tolist()}


def to_lab(rgb: torch.Tensor) -> torch.Tensor:
    """sRGB (..., 3) in [0, 1] to CIE L*a*b* under D65 (IEC 61966-2-1 and CIE 15)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / matrix.sum(1)
    f = torch.where(xyz > 216 / 24389, xyz ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def test_lab_of_known_colors():
    lab = to_lab(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    expected = torch.tensor([[100.0, 0.0, 0.0], [53.24, 80.09, 67.20], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(lab, expected, atol=0.1, rtol=0)


def test_colors_are_far_from_each_other():
    palette = to_lab(torch.tensor(list(COLORS.values())))
    assert tuple(COLORS) == FACTORS["color"]
    assert torch.pdist(palette).min() >= NEAR


@pytest.mark.parametrize("background", FACTORS["background"])
def test_colors_are_far_from_every_background(background):
    """From its mean, and but for some crests and stars from its pixels."""
    palette = to_lab(torch.tensor(list(COLORS.values())))
    index = torch.full((32,), FACTORS["background"].index(background))
    pixels = to_lab(draw_background(index, torch.Generator().manual_seed(0)).permute(0, 2, 3, 1).reshape(-1, 3))
    assert torch.cdist(palette, pixels.mean(0, keepdim=True)).min() >= NEAR
    assert (torch.cdist(palette, pixels) < NEAR).double().mean(1).max() <= 0.1
