"""The captioned world: captions and the split."""

import hashlib
import re

import pytest
import torch

from nitro_lab.mini.world import FACTORS, all_scenes, caption, sample_scenes, split_scenes, vocabulary

HELD_OUT_HASH = "dbaa7ee8a764cae9a5a1d9ef68076b1fbdec0e40d3ebd83f11d539682521b37c"


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return [caption(scene) for scene in all_scenes()]


def parse(text: str) -> dict[str, str]:
    """Factors that a caption mentions; every value is one word."""
    words = re.findall(r"\w+", text)
    return {name: value for name, values in FACTORS.items() for value in values if value in words}


def test_captions_are_all_different_and_mention_all_six_factors(captions):
    assert len(captions) == len(set(captions)) == 9600
    assert "a large striped red star at the top on a sunset background" in captions
    for scene, text in zip(all_scenes().tolist(), captions, strict=True):
        expected = {name: values[i] for i, (name, values) in zip(scene, FACTORS.items(), strict=True)}
        assert parse(text) == expected
    assert set(vocabulary()) == {word for text in captions for word in text.split()} | {"shape", "an"}


def test_factors_can_be_left_out():
    for left_out, name in enumerate(FACTORS):
        mentioned = torch.arange(6) != left_out
        assert parse(caption(all_scenes()[-1], mentioned)).keys() == FACTORS.keys() - {name}
    ring = torch.tensor([0, 0, FACTORS["color"].index("orange"), FACTORS["shape"].index("ring"), 0, 2])
    mentioned = torch.tensor([False, False, True, True, False, True])
    assert caption(ring, mentioned) == "an orange ring on an ocean background"
    assert caption(ring, torch.zeros(6, dtype=torch.bool)) == "a shape"


def test_split_is_fixed_and_disjoint_and_has_every_value_on_both_sides(captions):
    train, held_out = split_scenes()
    assert (len(train), len(held_out)) == (8640, 960)
    texts = [caption(scene) for scene in held_out]
    assert {caption(scene) for scene in train} == set(captions) - set(texts)
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == HELD_OUT_HASH
    for side in (train, held_out):
        for column, values in zip(side.T, FACTORS.values(), strict=True):
            assert column.unique().tolist() == list(range(len(values)))


def test_sampled_scenes_are_of_the_given_ones_and_follow_the_generator():
    scenes = all_scenes()[::100]
    first, again, other = (sample_scenes(scenes, 50, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set(map(tuple, first.tolist())) <= set(map(tuple, scenes.tolist()))
