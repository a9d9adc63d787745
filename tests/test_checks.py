"""Heads that break a rule are refused with the rule, the head's name and what to do."""

from functools import partial

import pytest
import torch
from small_pool import MeanHead
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from nitro_lab.discriminators.checks import HeadError, check_head, check_heads
from nitro_lab.discriminators.inputs import ViewFeatures
from nitro_lab.discriminators.zoo import ProjectionHead


class CountingHead(MeanHead):
    calls = 0

    def forward(self, feature):
        self.calls += 1
        return self.calls * super().forward(feature)


class MixedPromptHead(ProjectionHead):
    def forward(self, feature, pooled_prompt_embeds):
        return super().forward(feature, pooled_prompt_embeds - pooled_prompt_embeds.mean(0))


def mean_head(name, before=lambda feature: feature, after=lambda logits: logits, **attributes):
    """A `MeanHead` with changed features or logits."""
    forward = {"forward": lambda self, feature: after(MeanHead.forward(self, before(feature)))}
    return type(name, (MeanHead,), forward | attributes)


def layers(first):
    """A head of a layer and a convolution."""
    return lambda channels: nn.Sequential(first(channels), nn.Conv2d(channels, 1, 1))


def features() -> ViewFeatures:
    generator = torch.Generator().manual_seed(0)
    return ViewFeatures([torch.randn(4, 3, 4, 4, generator=generator)], torch.randn(4, 5, generator=generator))


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (layers(nn.BatchNorm2d), r"Sequential.*0\.running_mean.*GroupNorm"),
        (layers(lambda c: spectral_norm(nn.Conv2d(c, c, 9, padding=4))), r"Sequential.*0\.param.*spectral_norm"),
        (CountingHead, "CountingHead.*second call"),
        (mean_head("CenteredHead", lambda f: f - f.mean(0)), "CenteredHead.*mixes_samples = True"),
        (mean_head("DetachedCenterHead", lambda f: f - f.mean(0).detach()), "DetachedCenterHead.*mixes_samples = True"),
        (lambda channels: MixedPromptHead(channels, 5), "MixedPromptHead.*mixes_samples = True"),
        (mean_head("DetachedHead", torch.Tensor.detach), "gradient.*DetachedHead.*detach"),
        (mean_head("RootHead", lambda f: f + (0 * f).sqrt()), "RootHead.*NaN or infinite gradient"),
        (mean_head("LogHead", torch.log), r"LogHead.*NaN or infinite logits.*\(4, 3, 4, 4\)"),
        (nn.Identity, "Identity.*no trainable parameters"),
        (lambda c: nn.Conv2d(c, 1, 1).requires_grad_(False), "Conv2d.*no trainable parameters"),
        (lambda channels: nn.Conv2d(channels, 1), "kernel_size"),
        (mean_head("SummedHead", after=torch.sum), r"SummedHead.*\(4, 3, 4, 4\).*\(\).*\(4, \.\.\.\)"),
        (lambda channels: nn.Conv2d(channels, 1, 9), r"Conv2d.*\(4, 3, 4, 4\).*[Kk]ernel size"),
        (lambda channels: channels, r"head\(3\).*int.*nn\.Module"),
    ],
)
def test_heads_that_break_a_rule(head, named):
    with pytest.raises(HeadError, match=named):
        check_head(head, features())


def test_allowed_heads_leave_features_and_global_randomness_unchanged():
    view, state = features(), torch.get_rng_state()
    mixing = mean_head("MixingHead", lambda f: f - f.mean(0), mixes_samples=True)
    frozen = layers(lambda channels: nn.Conv2d(channels, channels, 1).requires_grad_(False))
    several_logits = partial(nn.Conv2d, out_channels=2, kernel_size=1)
    for head in (MeanHead, mixing, layers(lambda channels: nn.Dropout(0.5)), frozen, several_logits):
        check_head(head, view)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(view.maps[0], features().maps[0])
    assert not view.maps[0].requires_grad


def test_every_feature_size_is_checked_once():
    feature, made = features().maps[0], []
    views = [ViewFeatures([x]) for x in (feature, feature[..., :2], feature + 1)]
    check_heads(lambda channels: made.append(channels) or MeanHead(channels), views)
    assert made == [3, 3]
    with pytest.raises(HeadError, match=r"\(4, 3, 4, 2\)"):
        check_heads(lambda channels: nn.Conv2d(channels, 1, 3), views)
