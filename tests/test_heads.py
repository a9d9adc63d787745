"""The paper's head: layers, logits for every feature size, and many heads at once against torch.vmap."""

import pytest
import torch
from torch import nn

from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.pool import DiscriminatorPool, ViewFeatures


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels", "side", "depth"), [(64, 16, 1), (96, 4, 1), (96, 2, 1), (80, 8, 2), (64, 16, 3)])
def test_layers_are_the_paper_s(channels, side, depth):
    head = ConvHead(channels, width=16, depth=depth)
    assert [type(layer) for layer in head.layers] == [nn.Conv2d, nn.GroupNorm, nn.SiLU] * depth + [nn.Conv2d]
    *strided, last = [layer for layer in head.layers if isinstance(layer, nn.Conv2d)]
    assert {(layer.kernel_size, layer.stride) for layer in strided} == {((4, 4), (2, 2))}
    assert [layer.in_channels for layer in (*strided, last)] == [channels] + [16] * depth
    assert head(noise(2, channels, side, side)).shape == (2, 1, side >> depth, side >> depth)


def scores_and_gradients(make, channels: int, feature: torch.Tensor, vectorize: bool, heads: int = 3) -> list:
    """Logits of some heads of a pool, and gradients of parameters and features, in double precision."""
    generator = torch.Generator().manual_seed(1)
    pool = DiscriminatorPool(make, [channels], generator, 1, 1, heads, vectorize=vectorize).double()
    panel, feature = pool.all_heads(0), feature.double().requires_grad_()
    (logits,) = panel.score([ViewFeatures([feature])])
    weighting = torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits)
    return [logits, *torch.autograd.grad((logits * weighting).sum(), (*panel.parameters(), feature))]


class LoudHead(ConvHead):
    """With a forward of its own, so that it does not use the fast path."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(feature)


@pytest.mark.parametrize(
    ("channels", "side", "width", "depth"), [(6, 8, 8, 1), (5, 2, 16, 1), (6, 8, 8, 3), (4, 2, 8, 1)]
)
@pytest.mark.parametrize("heads", [1, 3])
def test_batched_forward_equals_vmap(channels, side, width, depth, heads, monkeypatch):
    feature = noise(4, channels, side, side)
    calls, batched = [], ConvHead.batched_forward
    monkeypatch.setattr(ConvHead, "batched_forward", lambda *args: calls.append(1) or batched(*args))
    mapped = scores_and_gradients(lambda c: LoudHead(c, width, depth), channels, feature, True, heads)
    assert not calls
    ours = scores_and_gradients(lambda c: ConvHead(c, width, depth), channels, feature, True, heads)
    torch.testing.assert_close([2 * value for value in ours], mapped)
    assert calls


@pytest.mark.parametrize(
    ("change", "side"),
    [
        (lambda head: head.layers.insert(2, nn.Tanh()), 2),
        (lambda head: head.layers.insert(0, nn.GroupNorm(2, 6)), 2),
        (lambda head: setattr(head.layers, "3", nn.Conv2d(8, 2, 1)), 2),
        (lambda head: setattr(head.layers[0], "dilation", (2, 2)), 8),
        (lambda head: setattr(head.layers[0], "stride", (1, 1)), 2),
        (lambda head: nn.utils.parametrizations.weight_norm(head.layers[-1]), 8),
    ],
)
def test_heads_with_changed_layers_are_run_as_they_are(change, side):
    def make(channels: int) -> ConvHead:
        head = ConvHead(channels, 8)
        change(head)
        return head

    together, one_by_one = (scores_and_gradients(make, 6, noise(4, 6, side, side), x) for x in (True, False))
    torch.testing.assert_close(together, one_by_one)


@pytest.mark.parametrize("vectorize", [True, False])
def test_too_small_features_are_refused(vectorize):
    with pytest.raises(ValueError, match=r"2×2.*depth 2.*4.*head_depth.*crop_size"):
        scores_and_gradients(lambda channels: ConvHead(channels, 8, depth=2), 8, noise(1, 8, 2, 2), vectorize)
