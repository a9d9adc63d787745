"""Which heads detect which damage: a damage changes one thing only, and heads made to detect one damage detect it."""

from contextlib import nullcontext
from operator import eq
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nitro_lab.backbones import Backbone
from nitro_lab.discriminators.pool import DiscriminatorPool
from nitro_lab.mini.world import FACTORS, split_scenes
from nitro_lab.sampling import encode_prompts
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.parts import Parts
from workbook import damage as study

NAMES = ["color", "place", "texture", "blur", "repetition", "caption"]
RED_MINUS_BLUE = torch.tensor([1.0, 0.0, -1.0, 0.0, 0.5])


def shrink(pipe, images, batch_size):
    return F.pad(F.avg_pool2d(images, 4), (0, 0, 0, 0, 0, 1))


class MeanColors(Backbone):
    def forward(self, latents, timesteps, embeds):
        return [latents, embeds.pooled_prompt_embeds[:, :4, None, None] * 100]


@pytest.fixture
def scenes() -> torch.Tensor:
    """Red objects, ordered by texture: another colour changes the mean."""
    held_out = split_scenes()[1]
    red = held_out[held_out[:, list(FACTORS).index("color")] == 0]
    return study.balanced_scenes(red, 20, torch.Generator().manual_seed(0))


@pytest.fixture
def state(untrained_pipeline, monkeypatch) -> SimpleNamespace:
    """The parts of a `TrainState` that are used; features are mean colours of 4×4 pixels, and prompt embeddings."""
    monkeypatch.setattr(study, "encode", shrink)
    config = DistillConfig(t_star=(10, 750))
    return SimpleNamespace(
        pipe=untrained_pipeline,
        scheduler=untrained_pipeline.scheduler,
        config=config,
        accelerator=SimpleNamespace(autocast=nullcontext),
        backbone=MeanColors(),
        empty_embeds=encode_prompts(untrained_pipeline, [""]),
        feature_indices=(0, 1),
        all_levels=False,
        views=Parts().make_views(config),
    )


@pytest.fixture
def pool() -> DiscriminatorPool:
    """Heads that compute red minus blue at level 0, and random ones at level 1."""
    generator = torch.Generator().manual_seed(0)
    pool = DiscriminatorPool(lambda c: nn.Conv2d(c, 1, 1), (4, 4), generator, noise_levels=2, heads_per_cell=2)
    pool.level_state(0)[0][:] = RED_MINUS_BLUE
    return pool


def test_each_damage_changes_its_own_pixels_or_the_caption_only(scenes):
    undamaged, damaged = study.damage(scenes, seed=1)
    assert list(damaged) == NAMES
    assert all(damaged[name].captions == undamaged.captions for name in NAMES[:-1])
    assert not any(map(eq, undamaged.captions, damaged["caption"].captions))
    changed = {name: (batch.images != undamaged.images).any(1) for name, batch in damaged.items()}
    assert not changed["caption"].any()
    inside = changed["color"]  # all pixels of the object
    assert inside.any(-1).any(-1).all()
    assert not (changed["texture"] & ~inside).any()
    assert (changed["repetition"] & inside).float().mean() <= 0.01  # copies do not overlap the object
    assert changed["repetition"].any(-1).any(-1).all()
    assert (changed["place"].float().mean((1, 2)) > 0.9 * inside.float().mean((1, 2))).all()
    kernel = torch.exp(-0.5 * torch.arange(-3, 4) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 7)
    padded = F.pad(undamaged.images, (3,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
    torch.testing.assert_close(damaged["blur"].images, blurred)
    with pytest.raises(ValueError, match="count is 7"):
        study.balanced_scenes(scenes, 7, torch.Generator())


def test_a_head_that_computes_mean_colours_responds_to_colour_and_not_to_place(state, pool, scenes):
    undamaged, damaged = study.damage(scenes, seed=1)
    result = study.responses(state, {"planted": pool}, undamaged, damaged, seed=3)["planted"]
    at_10 = dict(zip(NAMES, result[:, 0, 0, 0], strict=True))  # global view
    assert at_10["color"] > 0.4
    assert abs(at_10["place"]) < 0.15 * at_10["color"]
    assert at_10["caption"] == 0
    assert 0 < result[0, 1, 0, 0] < at_10["color"]  # t* = 750
    noise = torch.randn(20, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    alpha = state.scheduler.alphas_cumprod[10]
    x0 = (shrink(None, batch.images, None) for batch in (undamaged, damaged["color"]))
    noisy = [alpha.sqrt() * latents + (1 - alpha).sqrt() * noise for latents in x0]
    intact, changed = ((latents[:, 0] - latents[:, 2]).mean((1, 2)) for latents in noisy)
    expected = (intact.mean() - changed.mean()) / intact.std()
    assert at_10["color"] == pytest.approx(expected.item(), rel=1e-4)


def test_only_conditional_views_respond_to_a_wrong_caption_and_pools_are_scored_as_if_alone(state, pool, scenes):
    undamaged, damaged = study.damage(scenes, seed=1)
    captions = {"caption": damaged["caption"], "same": undamaged}
    wrong, same = study.responses(state, {"planted": pool}, undamaged, captions)["planted"]
    assert (wrong[:, 2] == 0).all()
    assert (wrong[:, :2, 1] != 0).any()
    assert (same == 0).all()
    untrained = study.untrained_copy(pool)
    assert not torch.equal(untrained.level_state(0)[0], pool.level_state(0)[0])
    both = study.responses(state, {"planted": pool, "untrained": untrained}, undamaged, damaged)
    alone = study.responses(state, {"untrained": untrained}, undamaged, damaged)
    assert np.allclose(both["untrained"], alone["untrained"])
    assert not np.allclose(both["untrained"], both["planted"])
    assert (pool.level_state(0)[0] == RED_MINUS_BLUE).all()


def test_explained_variance_and_strongest_cell():
    response = np.zeros((4, 3, 10)) + np.array([0.0, 1.0, 2.0, 5.0])[:, None, None]
    assert study.explained_variance(response) == pytest.approx({"noise level": 1, "view": 0, "feature level": 0})
    assert study.explained_variance(np.zeros((4, 3, 10)))["view"] == 0
    response[1, 2, 3] = -9
    name = study.strongest_cell(response, (10, 250, 500, 750), ("global", "local", "mine"), range(10))
    assert all(part in name for part in ("250", "mine", "3"))
