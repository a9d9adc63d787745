"""Heads of the zoo: every feature size, vmap against a loop, and what each of them sees."""

import pytest
import torch
from torch import nn

from nitro_lab.discriminators.checks import bind_text_dim, check_head, check_heads
from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.pool import DiscriminatorPool, ViewFeatures
from nitro_lab.discriminators.zoo import ZOO, GramHead, MinibatchStdHead, ProjectionHead, SpectralHead
from nitro_lab.training.config import DistillConfig

LEVELS = [(64, 16), (64, 8), (80, 8), (80, 4), (96, 4), (64, 4), (96, 2)]  # the miniature's, of latents and crops
TEXT_DIM = 7


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("head", [SpectralHead, ProjectionHead, MinibatchStdHead, GramHead, ConvHead])
def test_heads_pass_the_checks_at_every_level_and_vectorized_equals_one_after_another(head):
    make, pooled = bind_text_dim(head, TEXT_DIM), noise(4, TEXT_DIM)
    features = [noise(4, channels, side, side) for channels, side in LEVELS]
    check_heads(make, [(feature, pooled) for feature in features])
    scores, gradients = [], []
    for vectorize in (True, False):
        generator, channels = torch.Generator().manual_seed(1), [channels for channels, _ in LEVELS]
        panel = DiscriminatorPool(make, channels, generator, 1, 1, 3, vectorize=vectorize).all_heads(0)
        scores.append(panel.score([ViewFeatures(features, pooled)]))
        loss = torch.stack([logits.square().mean() for logits in scores[-1]]).sum()
        gradients.append(torch.autograd.grad(loss, panel.parameters()))
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
    assert all((gradient != 0).any(1).all() for gradient in gradients[0])


def test_spectral_head_does_not_see_translations():
    head, feature = SpectralHead(3), noise(2, 3, 8, 8)
    torch.testing.assert_close(head(feature.roll((3, 5), (2, 3))), head(feature), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(head(feature.flip(1)), head(feature), atol=1e-3)


def test_gram_head_scores_correlations_of_channels():
    head, feature = GramHead(3), noise(2, 3, 8, 8)
    rows = head.reduce(feature).flatten(2)
    gram = torch.einsum("bip,bjp->bij", rows, rows) / 64
    torch.testing.assert_close(head(feature), head.score(gram.flatten(1)))


def test_minibatch_std_is_numpy_s():
    head, feature = MinibatchStdHead(3), noise(5, 3, 4, 4)
    inputs = []
    head.layers.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    head(feature)
    assert inputs[0][:, 3].unique().item() == pytest.approx(feature.numpy().std(0).mean(), rel=1e-5)


def test_projection_head_is_linear_in_the_prompt_of_its_view():
    make, prompts = bind_text_dim(ProjectionHead, TEXT_DIM), noise(2, 4, TEXT_DIM)
    panel = DiscriminatorPool(make, [3], torch.Generator().manual_seed(0), 1, 2, 1).all_heads(0)
    feature, module = noise(4, 3, 4, 4), ProjectionHead(3, TEXT_DIM)
    scores = panel.score([ViewFeatures([feature], pooled) for pooled in prompts])
    for logits, params, pooled in zip(scores, panel.parameters(), prompts, strict=True):
        nn.utils.vector_to_parameters(params[0].detach(), module.parameters())
        torch.testing.assert_close(logits.flatten(), module(feature, pooled).flatten())
        without = module(feature, torch.zeros(4, TEXT_DIM))
        torch.testing.assert_close(module(feature, 2 * pooled) - without, 2 * (module(feature, pooled) - without))
    assert not torch.allclose(module(feature, pooled), without)
    with pytest.raises(ValueError, match=r"ProjectionHead.*pooled_prompt_embeds"):
        panel.score([ViewFeatures([feature])] * 2)


def test_zoo_entries_are_variants():
    for variant in ZOO.values():
        changes = dict(variant) if isinstance(variant, dict) else {"head": variant}
        head = bind_text_dim(changes.pop("head", ConvHead), TEXT_DIM)
        check_head(head, noise(4, 96, 4, 4), noise(4, TEXT_DIM))
        DistillConfig(**changes)
