"""Example heads: every size of map, gradients, vmap against a loop, and what each is meant to see."""

from functools import partial

import pytest
import torch
from tiny_training import TINY
from torch import nn

from nitro_lab.compare.planning import apply
from nitro_lab.example_heads import EXAMPLES, GramHead, MinibatchStatHead, ProjectionHead, SpectralHead
from nitro_lab.flat_head import FlatHead
from nitro_lab.head_contract import bind_text, check_heads
from nitro_lab.heads import ConvHead
from nitro_lab.panel import Sight
from nitro_lab.pool import DiscriminatorPool

HEADS = (SpectralHead, ProjectionHead, MinibatchStatHead, GramHead, ConvHead)
LEVELS = [(64, 16), (64, 8), (80, 8), (80, 4), (96, 4), (64, 4), (96, 2)]  # the miniature's, of wholes and of crops
TEXT = 7


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("head", HEADS)
def test_heads_keep_the_contract_on_every_level(head):
    check_heads(bind_text(head, TEXT), [(noise(4, channels, side, side), noise(4, TEXT)) for channels, side in LEVELS])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("channels", "side"), [(64, 16), (96, 2)])
def test_side_by_side_equals_one_after_another(head, channels, side):
    make, feature, text = bind_text(head, TEXT), noise(4, channels, side, side), noise(4, TEXT)
    vectorized, looped = (FlatHead(make, channels, torch.device("cpu"), vectorize) for vectorize in (True, False))
    weights = vectorized.fresh(3, torch.Generator().manual_seed(1)).requires_grad_()
    scores = [flat.score(weights, feature, text) for flat in (vectorized, looped)]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(score.square().mean(), weights)[0] for score in scores]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
    assert (gradients[0] != 0).any(1).all()


def test_a_shift_of_the_picture_does_not_change_its_spectrum():
    head, feature = SpectralHead(3), noise(2, 3, 8, 8)
    torch.testing.assert_close(head(feature.roll((3, 5), (2, 3))), head(feature), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(head(feature.flip(1)), head(feature), atol=1e-3)


def test_a_gram_matrix_does_not_know_places():
    head, feature = GramHead(3), noise(2, 3, 8, 8)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(feature.flatten(2)[..., order].view_as(feature)), head(feature))
    rows = head.narrow(feature).flatten(2)
    gram = torch.einsum("bip,bjp->bij", rows, rows) / 64
    torch.testing.assert_close(head(feature), head.read(gram.flatten(1)))


def test_minibatch_statistic_is_numpy_s_spread():
    head, feature = MinibatchStatHead(3), noise(5, 3, 4, 4)
    seen = []
    head.read.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    head(feature)
    assert seen[0].shape == (5, 4, 4, 4)
    assert seen[0][:, 3].unique().item() == pytest.approx(feature.numpy().std(0).mean(), rel=1e-5)


def test_projection_is_linear_in_the_text():
    head, feature, text = ProjectionHead(3, TEXT), noise(2, 3, 4, 4), noise(2, TEXT)
    without = head(feature, torch.zeros(2, TEXT))
    torch.testing.assert_close(head(feature, 2 * text) - without, 2 * (head(feature, text) - without))
    assert not torch.allclose(head(feature, text), without)


def test_the_text_reaches_the_heads_of_its_view_through_a_pool():
    pool = DiscriminatorPool(bind_text(ProjectionHead, TEXT), [3], torch.Generator().manual_seed(0), 1, 2, 1)
    feature, texts = noise(4, 3, 4, 4), (noise(4, TEXT, seed=1), noise(4, TEXT, seed=2))
    scores = pool.draw(0).score([Sight([feature], text) for text in texts])
    for view, text in enumerate(texts):
        module = ProjectionHead(3, TEXT)
        nn.utils.vector_to_parameters(pool.state(0)[0][view], module.parameters())
        torch.testing.assert_close(scores[view].flatten(), module(feature, text).flatten())
    with pytest.raises(ValueError, match=r"ProjectionHead takes the pooled text embedding; .*Sight"):
        pool.draw(0).score([[feature], [feature]])


def test_examples_are_changes():
    applied = {name: apply(name, change, TINY) for name, change in EXAMPLES.items()}
    assert len(applied) == 7
    config, ideas = applied["a deep head on the mid block (as DMD2)"]
    assert (config.levels, config.slots, config.refresh) == ((9,), 1, 0.0)
    assert isinstance(ideas.head, partial)
    check_heads(ideas.head, [(noise(4, 96, 4, 4), noise(4, TEXT))])
