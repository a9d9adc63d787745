"""Who notices what: damages change one thing alone, and a planted head notices what it was planted for."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nitro_lab.distill_config import DistillConfig
from nitro_lab.ideas import AS_CONFIGURED
from nitro_lab.mini.world import FACTORS, split_scenes
from nitro_lab.pool import DiscriminatorPool
from nitro_lab.sampling import encode_prompts
from nitro_lab.studies import specialists

NAMES = ["color", "place", "texture", "blur", "repetition", "caption"]
VIEWS = 3


@pytest.fixture
def scenes() -> torch.Tensor:
    """Red objects, solid to speckled, so that another colour is another mean."""
    held_out = split_scenes()[1]
    red = held_out[held_out[:, specialists.COLOR] == 0]
    return specialists.draw_scenes(red, 20, torch.Generator().manual_seed(0))


@pytest.fixture
def training(untrained_pipeline, monkeypatch) -> SimpleNamespace:
    """What a run holds, as far as it is asked; the "backbone" shows the mean colours of 4×4 pixels."""

    def shrink(pipe, pictures, batch_size):
        return F.pad(F.avg_pool2d(pictures, 4), (0, 0, 0, 0, 0, 1))

    monkeypatch.setattr(specialists, "encode", shrink)
    return SimpleNamespace(
        pipe=untrained_pipeline,
        scheduler=untrained_pipeline.scheduler,
        config=DistillConfig(t_star=(10, 750)),
        backbone=lambda latents, t, conditioning: [latents, conditioning.pooled[:, :4, None, None] * 100],
        samples=SimpleNamespace(empty=encode_prompts(untrained_pipeline, [""])),
        levels=(0, 1),
        ideas=AS_CONFIGURED,
    )


@pytest.fixture
def pool() -> DiscriminatorPool:
    """On the first level heads that read red minus blue; on the second whatever comes."""
    generator = torch.Generator().manual_seed(0)
    pool = DiscriminatorPool(lambda channels: nn.Conv2d(channels, 1, 1), (4, 4), generator, noise_levels=2, slots=2)
    pool.weights0[:] = torch.tensor([1.0, 0.0, -1.0, 0.0, 0.5])
    return pool


def test_each_damage_changes_its_own_pixels_alone(scenes):
    whole, damaged = specialists.damage(scenes, seed=1)
    assert list(damaged) == NAMES
    changed = {name: (images.pictures != whole.pictures).any(1) for name, images in damaged.items()}
    assert not changed["caption"].any()
    assert changed["blur"].float().mean() > 0.5
    inside = changed["color"]  # all pixels of the object
    assert inside.any(-1).any(-1).all()
    assert not (changed["texture"] & ~inside).any()
    assert not (changed["repetition"] & inside).float().mean() > 0.01  # copies keep clear of the object
    assert changed["repetition"].any(-1).any(-1).all()
    moved = changed["place"].float().mean((1, 2)) / inside.float().mean((1, 2))
    assert (moved > 0.9).all()


def test_damaged_twins_are_told_the_same_words_but_one(scenes):
    whole, damaged = specialists.damage(scenes, seed=1)
    assert all(damaged[name].captions == whole.captions for name in NAMES[:-1])
    wrong = zip(whole.captions, damaged["caption"].captions, strict=True)
    assert all(one != other for one, other in wrong)


def test_textures_come_equally_often(scenes):
    assert torch.bincount(scenes[:, specialists.TEXTURE]).tolist() == [4] * 5
    with pytest.raises(ValueError, match="multiple of 5"):
        specialists.draw_scenes(scenes, 7, torch.Generator())


def test_blur_keeps_the_mean_and_takes_the_detail():
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    soft = specialists.blur(pictures)
    assert soft.mean().item() == pytest.approx(pictures.mean().item(), abs=0.01)
    assert soft.var() < 0.2 * pictures.var()
    assert torch.equal(specialists.blur(torch.ones(1, 3, 8, 8)).round(decimals=5), torch.ones(1, 3, 8, 8))


def test_a_head_that_reads_the_mean_colour_notices_colour_and_not_place(training, pool, scenes):
    whole, damaged = specialists.damage(scenes, seed=1)
    before = {name: value.clone() for name, value in pool.state_dict().items()}
    result = specialists.responses(training, {"planted": pool}, whole, damaged)["planted"]
    assert result.shape == (len(NAMES), 2, VIEWS, 2)
    clean = dict(zip(NAMES, result[:, 0, 0, 0], strict=True))  # t* = 10, the whole picture, the planted level
    assert clean["color"] > 0.4
    assert abs(clean["place"]) < 0.15 * clean["color"]
    assert abs(clean["blur"]) < 0.1 * clean["color"]
    assert clean["caption"] == 0
    noisy = dict(zip(NAMES, result[:, 1, 0, 0], strict=True))
    assert 0 < noisy["color"] < clean["color"]
    assert all(torch.equal(value, before[name]) for name, value in pool.state_dict().items())


def test_a_wrong_caption_is_noticed_by_those_alone_that_are_told_it(training, pool, scenes):
    whole, damaged = specialists.damage(scenes, seed=1)
    result = specialists.responses(training, {"planted": pool}, whole, {"caption": damaged["caption"]})["planted"]
    assert (result[0, :, 2] == 0).all()  # the unconditional view
    again = specialists.responses(training, {"planted": pool}, whole, {"caption": whole})["planted"]
    assert (again == 0).all()


def test_pools_are_judged_side_by_side_as_each_alone(training, pool, scenes):
    whole, damaged = specialists.damage(scenes, seed=1)
    fresh = specialists.untrained(pool)
    assert not torch.equal(fresh.weights0, pool.weights0)
    assert torch.equal(pool.weights0[0], torch.tensor([1.0, 0.0, -1.0, 0.0, 0.5]))
    both = specialists.responses(training, {"planted": pool, "fresh": fresh}, whole, damaged)
    alone = specialists.responses(training, {"fresh": fresh}, whole, damaged)
    assert np.allclose(both["fresh"], alone["fresh"])
    assert not np.allclose(both["fresh"], both["planted"])


def test_explained_variance_finds_the_coordinate_that_matters():
    response = np.zeros((4, 3, 10))
    response += np.array([0.0, 1.0, 2.0, 5.0])[:, None, None]
    shares = specialists.share_of_variance(response)
    assert shares == pytest.approx({"noise level": 1, "view": 0, "feature level": 0})
    response[1, 2, 3] = -9
    assert specialists.strongest(response) == (1, 2, 3)
    assert specialists.share_of_variance(np.zeros((4, 3, 10)))["view"] == 0


def test_factors_are_where_the_module_looks_for_them():
    names = list(FACTORS)
    assert [names[i] for i in (specialists.TEXTURE, specialists.COLOR, specialists.PLACE)] == [
        "texture",
        "color",
        "place",
    ]
