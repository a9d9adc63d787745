"""Views: shapes, places of crops, prompts, and unknown names."""

import pytest
import torch

from nitro_lab.discriminators.views import VIEWS, GlobalView, LocalView, make_view
from nitro_lab.sampling import PromptEmbeds

IMAGES, SIDE = 3, 16
# every pixel has its own value, so that a crop shows its image and its place
LATENTS = torch.arange(IMAGES * SIDE * SIDE, dtype=torch.float32).view(IMAGES, 1, SIDE, SIDE)


def make_embeds(first: float) -> PromptEmbeds:
    """A different value for each prompt."""
    values = first + torch.arange(IMAGES, dtype=torch.float32)[:, None]
    return PromptEmbeds(values[:, None].expand(-1, 4, 2), values.expand(-1, 2), values.expand(-1, 6))


PROMPTS, EMPTY = make_embeds(1), make_embeds(-100)


def see(view, latents: torch.Tensor = LATENTS, seed: int = 0) -> tuple[torch.Tensor, PromptEmbeds]:
    return view(latents, PROMPTS, EMPTY, torch.Generator().manual_seed(seed))


def same(a: PromptEmbeds, b: PromptEmbeds) -> bool:
    return all(torch.equal(value, vars(b)[name]) for name, value in vars(a).items())


def test_views_by_name():
    expected = [GlobalView(True), LocalView(True, 6, 3), LocalView(False, 6, 3), GlobalView(False)]
    assert [make_view(name, 6, 3) for name in VIEWS] == expected
    with pytest.raises(ValueError, match=r"'globel'.*global_conditional.*global_unconditional"):
        make_view("globel", 6, 3)


@pytest.mark.parametrize(("conditional", "expected"), [(True, PROMPTS), (False, EMPTY)])
@pytest.mark.parametrize("crops", [1, 2, 5])
def test_crops_are_rows_of_the_batch_at_the_same_place_in_all_images(conditional, expected, crops):
    whole, embeds = see(GlobalView(conditional))
    assert whole is LATENTS
    assert same(embeds, expected)
    seen, embeds = see(LocalView(conditional, size=6, crops=crops))
    assert same(embeds, expected[torch.arange(IMAGES).repeat(crops)])
    for crop in seen.view(crops, IMAGES, 6, 6):
        top, left = divmod(int(crop[0, 0, 0]), SIDE)
        assert torch.equal(crop, LATENTS[:, 0, top : top + 6, left : left + 6])


def test_only_the_seed_decides_the_places_and_all_places_occur():
    first, other, elsewhere = (see(LocalView(size=4, crops=3), LATENTS + x, s)[0] for x, s in ((0, 5), (1, 5), (0, 6)))
    assert torch.equal(first + 1, other)
    assert not torch.equal(first, elsewhere)
    corners = {int(see(LocalView(size=14, crops=1), seed=seed)[0][0, 0, 0, 0]) for seed in range(200)}
    assert corners == {row * SIDE + column for row in range(3) for column in range(3)}
    assert torch.equal(see(LocalView(size=SIDE, crops=1))[0], LATENTS)


@pytest.mark.parametrize("shape", [(SIDE, SIDE + 1), (SIDE + 1, SIDE)])
def test_too_large_crops_are_refused(shape):
    with pytest.raises(ValueError, match=rf"{SIDE + 1}.*{shape[0]}×{shape[1]}"):
        see(LocalView(size=SIDE + 1), torch.zeros(1, 4, *shape))
