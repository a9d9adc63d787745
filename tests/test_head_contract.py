"""What no head may do is refused with a message that says how to mend it, before anything trains."""

import pytest
import torch
from small_pool import MeanHead
from tiny_training import TINY
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from nitro_lab.distill import train
from nitro_lab.example_heads import ProjectionHead
from nitro_lab.head_contract import HeadError, check_head
from nitro_lab.ideas import Ideas
from nitro_lab.studio import prepare


class Running(MeanHead):
    def __init__(self, channels):
        super().__init__(channels)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, feature):
        return self.norm(super().forward(feature))


class Spectral(MeanHead):
    def __init__(self, channels):
        super().__init__(channels)
        self.linear = nn.Sequential(spectral_norm(nn.Linear(channels, 8)), nn.Linear(8, 1))


class Counting(MeanHead):
    calls = 0

    def forward(self, feature):
        self.calls += 1
        return self.calls * super().forward(feature)


class Centred(MeanHead):
    def forward(self, feature):
        return super().forward(feature - feature.mean(0))


class CentredDetached(MeanHead):
    def forward(self, feature):
        return super().forward(feature - feature.mean(0).detach())


class MixedText(ProjectionHead):
    def forward(self, feature, pooled):
        return super().forward(feature, pooled - pooled.mean(0))


class Detached(MeanHead):
    def forward(self, feature):
        return super().forward(feature.detach())


class Root(MeanHead):
    def forward(self, feature):
        return super().forward(feature) + (0 * feature).sqrt().mean((1, 2, 3))[:, None]


class Weightless(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, feature):
        return feature.mean((1, 2, 3))


class Summed(MeanHead):
    def forward(self, feature):
        return super().forward(feature).sum()


def features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 4, 4, generator=generator), torch.randn(4, 5, generator=generator)


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (Running, r"Running keeps state .*, in norm\.running_mean.*GroupNorm"),
        (Spectral, "Spectral keeps state .*no spectral_norm"),
        (Counting, "Counting keeps state .*other logits the second time"),
        (Centred, "Centred lets images of a batch change .*mixes_images = True"),
        (CentredDetached, "CentredDetached lets images of a batch change"),
        (lambda channels: MixedText(channels, 5), "MixedText lets images of a batch change"),
        (Detached, "No gradient flows through Detached"),
        (Root, "gradient through Root .* is no number"),
        (Weightless, "Weightless has no weights"),
        (Summed, r"Summed made \(\) .*it must make \(4,\), \(4, 1\) or \(4, 1, h, w\)"),
        (lambda channels: nn.Conv2d(channels, 2, 1), "2 numbers where one logit belongs; end it with a layer to 1"),
        (lambda channels: nn.Conv2d(channels, 1, 9), r"Conv2d fails on features \(4, 3, 4, 4\): .*[Kk]ernel size"),
        (lambda channels: channels, r"head\(3\) gave a int; it must give an nn\.Module"),
    ],
)
def test_heads_that_break_the_contract(head, named):
    with pytest.raises(HeadError, match=named):
        check_head(head, *features())


def test_what_is_allowed():
    class Mixing(Centred):
        mixes_images = True

    check_head(MeanHead, *features())
    check_head(Mixing, *features())
    check_head(lambda channels: nn.Sequential(nn.Dropout(0.5), nn.Conv2d(channels, 1, 1)), *features())


def test_a_run_checks_its_heads_first_and_gives_them_their_text(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(HeadError, match="Running keeps state"):
        prepare(TINY, tmp_path, Ideas(head=Running))
    training = prepare(TINY, tmp_path, Ideas(head=ProjectionHead))
    report = next(train(training))
    assert report.margins.isfinite().all()
    assert report.gradient_norm > 0
