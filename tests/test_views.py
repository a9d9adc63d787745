"""The three views: shapes, places of crops, and who sees the prompt."""

import pytest
import torch

from nitro_lab.randomness import random_below
from nitro_lab.sampling import Conditioning
from nitro_lab.views import CHOICES, PAPER_VIEWS, Crops, Whole, make_view

IMAGES, SIDE = 3, 16


@pytest.fixture
def latents() -> torch.Tensor:
    """Every pixel has a number of its own, so that a crop tells its image and its place."""
    return torch.arange(IMAGES * SIDE * SIDE, dtype=torch.float32).view(IMAGES, 1, SIDE, SIDE)


def told(first: float) -> Conditioning:
    """One distinct number for each prompt."""
    numbers = first + torch.arange(IMAGES, dtype=torch.float32)[:, None]
    return Conditioning(numbers[:, None].expand(-1, 4, 2), numbers.expand(-1, 2), numbers.expand(-1, 6))


PROMPTS, EMPTY = told(1), told(-100)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: Conditioning, b: Conditioning) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("tokens", "pooled", "sizes"))


def test_the_papers_views_are_three_of_four():
    assert PAPER_VIEWS == ("global conditional", "local conditional", "local unconditional")
    wanted = [Whole(True), Crops(True, 6, 3), Crops(False, 6, 3), Whole(False)]
    assert [make_view(name, 6, 3) for name in CHOICES] == wanted


@pytest.mark.parametrize(("conditional", "wanted"), [(True, PROMPTS), (False, EMPTY)])
def test_whole_latent_is_left_alone(latents, conditional, wanted):
    seen, conditioning = Whole(conditional)(latents, PROMPTS, EMPTY, chance())
    assert seen is latents
    assert same(conditioning, wanted)


@pytest.mark.parametrize(("conditional", "wanted"), [(True, PROMPTS), (False, EMPTY)])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_crops_fold_into_the_batch_with_their_prompts(latents, conditional, wanted, number):
    seen, conditioning = Crops(conditional, size=5, number=number)(latents, PROMPTS, EMPTY, chance())
    assert seen.shape == (number * IMAGES, 1, 5, 5)
    assert same(conditioning, wanted[torch.arange(IMAGES).repeat(number)])
    images = seen[:, 0, 0, 0] // SIDE**2
    assert images.tolist() == list(range(IMAGES)) * number


def test_crops_are_squares_of_the_latent_at_one_place_for_all_images(latents):
    seen, _ = Crops(size=6, number=4)(latents, PROMPTS, EMPTY, chance())
    for crop in seen.view(4, IMAGES, 6, 6):
        top, left = divmod(int(crop[0, 0, 0]), SIDE)
        assert torch.equal(crop, latents[:, 0, top : top + 6, left : left + 6])


def test_same_seed_places_the_same_crops_in_other_latents(latents):
    view = Crops(size=4, number=3)
    first, _ = view(latents, PROMPTS, EMPTY, chance(5))
    other, _ = view(latents + 1000, PROMPTS, EMPTY, chance(5))
    elsewhere, _ = view(latents, PROMPTS, EMPTY, chance(6))
    assert torch.equal(first + 1000, other)
    assert not torch.equal(first, elsewhere)


def test_every_place_comes_up(latents):
    view, generator = Crops(size=14, number=1), chance()
    corners = {int(view(latents, PROMPTS, EMPTY, generator)[0][0, 0, 0, 0]) for _ in range(200)}
    assert corners == {row * SIDE + column for row in range(3) for column in range(3)}


def test_crop_may_be_the_whole_latent(latents):
    seen, _ = Crops(size=SIDE, number=1)(latents, PROMPTS, EMPTY, chance())
    assert torch.equal(seen, latents)


@pytest.mark.parametrize("shape", [(SIDE, SIDE + 1), (SIDE + 1, SIDE)])
def test_too_large_crops_are_refused(shape):
    with pytest.raises(ValueError, match=rf"size {SIDE + 1} do not fit into latents of {shape[0]}×{shape[1]}; make"):
        Crops(size=SIDE + 1)(torch.zeros(1, 4, *shape), PROMPTS, EMPTY, chance())


def test_gradients_reach_the_pixels_that_are_seen(latents):
    latents.requires_grad_()
    seen, _ = Crops(size=4, number=1)(latents, PROMPTS, EMPTY, chance())
    seen.sum().backward()
    assert latents.grad.sum() == IMAGES * 4 * 4


def test_random_below_is_even():
    generator = chance()
    counts = torch.bincount(torch.tensor([random_below(3, generator) for _ in range(600)]))
    assert len(counts) == 3
    assert counts.min() > 150
