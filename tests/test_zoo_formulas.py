"""Logits, losses, penalties and laws of the zoo against the published formulas, written out on the same numbers.

Read from autonomousvision/stylegan-t and projected-gan, G-U-N/Phased-Consistency-Model, tianweiy/DMD2, NVlabs/Sana,
NVlabs/FastGen, brownvc/R3GAN, nupurkmr9/vision-aided-gan and Zhendong-Wang/Diffusion-GAN.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from nitro_lab.backbones import Backbone
from nitro_lab.discriminators.inputs import ViewFeatures
from nitro_lab.discriminators.losses import GAN_LOSSES, GANBatch
from nitro_lab.discriminators.zoo import ZOO, CrossLevelMixing, entries, label_smoothing, logit_normal
from nitro_lab.discriminators.zoo.heads import LocalBatchNorm, TextTokenHead, TokenHead, noise_code
from nitro_lab.sampling import PromptEmbeds
from nitro_lab.scheduler import TimestepShiftLCMScheduler


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spectral(weight: Tensor) -> Tensor:
    """A convolution's weight over its largest singular value."""
    return weight / torch.linalg.svdvals(weight.flatten(1))[0]


def leaky(x: Tensor, slope: float = 0.2) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def group_norm(x: Tensor, groups: int) -> Tensor:
    rows = x.reshape(len(x), groups, -1)
    mean, var = rows.mean(2, keepdim=True), rows.var(2, keepdim=True, unbiased=False)
    return ((rows - mean) / (var + 1e-5).sqrt()).reshape(x.shape)


def local_norm(x: Tensor) -> Tensor:
    """Tokens (8k, C, N) over each 8 images and all tokens."""
    rows = x.reshape(-1, 8, *x.shape[1:])
    mean, var = rows.mean((1, 3), keepdim=True), rows.var((1, 3), keepdim=True, unbiased=False)
    return ((rows - mean) / (var + 1e-5).sqrt()).reshape(x.shape)


@pytest.mark.parametrize("conditional", [True, False])
def test_token_head_is_stylegan_t_s(conditional):
    """Spectral norm, norm over 8 images, 9 circular taps, residual over √2, projection over √64."""
    x, text = noise(16, 6, 4, 4), noise(16, 5)
    torch.manual_seed(0)
    head = TextTokenHead(6, 5) if conditional else TokenHead(6)
    first, second = head.first[0], head.second[0]
    tokens = x.reshape(16, 6, 16)
    mapped = torch.einsum("oi,bin->bon", spectral(first.weight)[:, :, 0, 0], tokens) + first.bias[:, None]
    hidden = leaky(local_norm(mapped))
    taps = sum(
        torch.einsum("oi,bin->bon", spectral(second.weight)[:, :, 0, tap], hidden.roll(4 - tap, 2)) for tap in range(9)
    )
    hidden = (hidden + leaky(local_norm(taps + second.bias[:, None]))) / math.sqrt(2)
    logits = torch.einsum("oi,bin->bon", spectral(head.classify.weight)[:, :, 0, 0], hidden)
    logits = logits + head.classify.bias[:, None]
    if conditional:
        direction = text @ head.condition.weight.T + head.condition.bias
        logits = (logits * direction[:, :, None]).sum(1, keepdim=True) / 8
    got = head(x, text) if conditional else head(x)
    torch.testing.assert_close(got.flatten(1), logits.flatten(1), rtol=1e-3, atol=1e-4)


def test_local_batch_norm_sees_its_own_8_images_only():
    norm, x = LocalBatchNorm(3), noise(16, 3, 2, 2)
    other = torch.cat([x[:8], noise(8, 3, 2, 2, seed=1)])
    torch.testing.assert_close(norm(x)[:8], norm(other)[:8])
    torch.testing.assert_close(norm(x).flatten(2), local_norm(x.flatten(2)))


def test_ladd_head_knows_the_noise_level_and_the_prompt():
    head, x, text = entries.LADDHead(6, 5), noise(8, 6, 4, 4), noise(8, 5)
    low, high = torch.full((8,), 10), torch.full((8,), 900)
    assert not torch.allclose(head(x, text, low), head(x, text, high), atol=1e-3)
    assert not torch.allclose(head(x, text, low), head(x, text.flip(0), low), atol=1e-3)
    torch.testing.assert_close(noise_code(low)[0], noise_code(low)[7])


class Maps(Backbone):
    """Returns given maps."""

    def __init__(self, *maps: Tensor):
        super().__init__()
        self.maps, self.channels = maps, tuple(x.shape[1] for x in maps)
        self.register_buffer("anything", torch.zeros(1))

    def forward(self, latents: Tensor, timestep: Tensor, embeds: PromptEmbeds) -> list[Tensor]:
        return list(self.maps)


def test_cross_level_mixing_is_projected_gan_s():
    """From coarse to fine: add the projected level, enlarge by 2 with aligned corners, project."""
    maps = noise(2, 3, 8, 8), noise(2, 5, 4, 4), noise(2, 7, 2, 2)
    mixing = CrossLevelMixing(Maps(*maps), levels=(0, 1, 2), width=4)
    outputs, total = [], 0
    for level in (2, 1, 0):
        channel, scale = mixing.channel_mixing[level], mixing.scale_mixing[level]
        own = torch.einsum("oi,bihw->bohw", channel.weight[:, :, 0, 0], maps[level]) + channel.bias[:, None, None]
        side = maps[level].shape[2]
        place = torch.linspace(0, side - 1, 2 * side)
        weights = (1 - (place[:, None] - torch.arange(side)).abs()).clamp(min=0)  # of bilinear interpolation
        larger = torch.einsum("yh,xw,bchw->bcyx", weights, weights, total + own)
        total = torch.einsum("oi,bihw->bohw", scale.weight[:, :, 0, 0], larger) + scale.bias[:, None, None]
        outputs.insert(0, total)
    none = PromptEmbeds(noise(2, 1), noise(2, 1), noise(2, 1))
    torch.testing.assert_close(mixing(noise(2, 4, 8, 8), torch.zeros(2), none), outputs, rtol=1e-4, atol=1e-5)


def test_projected_gan_has_25_patch_logits_a_scale():
    head = entries.ProjectedHead([8, 8])
    x = [noise(2, 8, 16, 16), noise(2, 8, 8, 8)]
    down, last = head.scales[0][0][0], head.scales[0][1]
    hidden = torch.nn.functional.conv2d(x[0], spectral(down.weight), down.bias, stride=2, padding=1)
    fine = torch.nn.functional.conv2d(leaky(group_norm(hidden, 4)), spectral(last.weight))
    coarse = torch.nn.functional.conv2d(x[1], spectral(head.scales[1][0].weight))
    expected = torch.cat([fine.flatten(1), coarse.flatten(1)], 1)
    assert expected.shape == (2, 50)
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-5)


def test_pcm_head_and_losses_are_its_repository_s():
    head, x = entries.PCMHead(32), noise(3, 32, 4, 4)

    def conv(layer: nn.Conv2d, y: Tensor) -> Tensor:
        return torch.einsum("oi,bihw->bohw", layer.weight[:, :, 0, 0], y) + layer.bias[:, None, None]

    first = leaky(group_norm(conv(head.first[0], x), 16), 0.01)
    second = leaky(group_norm(conv(head.second[0], first), 16), 0.01)
    torch.testing.assert_close(head(x), conv(head.out, first + second), rtol=1e-4, atol=1e-5)
    loss, real, fake = ZOO["PCM"]["gan_loss"], noise(9), noise(9, seed=1)
    d_loss = sum(max(0, 1 + f) for f in fake.tolist()) / 9 + sum(max(0, 1 - r) for r in real.tolist()) / 9
    assert loss.discriminator(real, fake).item() == pytest.approx(d_loss, rel=1e-5)
    assert loss.generator(real, fake).item() == pytest.approx(sum(max(0, 1 - f) for f in fake.tolist()) / 9, rel=1e-5)


def test_dmd2_classifier_makes_one_logit_of_the_mid_block():
    """4×4 → 2×2 → 1×1 with strided convolutions, GroupNorm and SiLU, then a linear layer."""
    head, x = ZOO["DMD2"]["head"](96), noise(3, 96, 4, 4)
    hidden = x
    for place in (0, 3):
        conv = head.layers[place]
        hidden = torch.nn.functional.conv2d(hidden, conv.weight, conv.bias, stride=2, padding=1)
        hidden = group_norm(hidden, 8)
        hidden = hidden * torch.sigmoid(hidden)
    logits = hidden[:, :, 0, 0] @ head.layers[-1].weight[0, :, 0, 0] + head.layers[-1].bias
    torch.testing.assert_close(head(x).flatten(), logits, rtol=1e-4, atol=1e-5)
    real, fake, loss = noise(5), noise(5, seed=1), GAN_LOSSES[ZOO["DMD2"]["gan_loss"]]
    d_loss = sum(math.log(1 + math.exp(f)) + math.log(1 + math.exp(-r)) for r, f in zip(real, fake, strict=True)) / 5
    assert loss.discriminator(real, fake).item() == pytest.approx(d_loss, rel=1e-5)
    assert loss.generator(real, fake).item() == pytest.approx(sum(math.log(1 + math.exp(-f)) for f in fake) / 5)


def test_sana_s_wrong_captions_count_as_fakes():
    """Its hinge over generated and mismatched samples in one batch is the mean of ours against each, but for 1/2."""
    real, fake, wrong = noise(8), noise(8, seed=1), noise(8, seed=2)
    d_loss = GAN_LOSSES[ZOO["SANA-Sprint"]["gan_loss"]].discriminator
    published = (1 - real).clamp(min=0).mean() + (1 + torch.cat([fake, wrong])).clamp(min=0).mean()
    torch.testing.assert_close((d_loss(real, fake) + d_loss(real, wrong)) / 2, published)


def r3_batch(head: nn.Module, real: Tensor, fake: Tensor) -> GANBatch:
    """A batch with one view, one level and one head."""

    def score(views: list[ViewFeatures]) -> list[Tensor]:
        return [head(view.maps[0]).flatten()[None] for view in views]

    sides = [ViewFeatures([real])], [ViewFeatures([fake])]
    none = PromptEmbeds(*(torch.zeros(len(real), 1) for _ in range(3)))

    def extract(x0: Tensor, embeds: PromptEmbeds) -> list[ViewFeatures]:
        return [ViewFeatures([x0])]

    return GANBatch(*sides, *map(score, sides), real, fake, none, none, score, extract, generator(3))


def test_r3gan_s_discriminator_loss_is_its_repository_s():
    """softplus of fake less real, pair by pair, and γ/2 · (‖∇D(real)‖² + ‖∇D(fake)‖²), gradients by hand."""
    head, real, fake = entries.R3Head(16), noise(4, 16, 4, 4), noise(4, 16, 4, 4, seed=1)
    batch, penalty, loss = r3_batch(head, real, fake), ZOO["R3GAN"]["regularizer"], GAN_LOSSES["relativistic"]
    assert ZOO["R3GAN"]["gan_loss"] == "relativistic"
    weight = head.out.weight[0]  # the residual starts at 0: D is linear, its gradient w / (h·w) at each of h·w places
    squared = 16 * (weight / 16).square().sum()
    torch.testing.assert_close(penalty(batch), penalty.keywords["weight"] / 2 * 2 * squared)
    r, f = (x.mean((2, 3)) @ weight for x in (real, fake))
    torch.testing.assert_close(loss.discriminator(r, f), (1 + (f - r).exp()).log().mean())
    torch.testing.assert_close(loss.generator(r, f), (1 + (r - f).exp()).log().mean())
    torch.testing.assert_close(batch.real_logits[0][0], r)


def test_r3_head_is_a_residual_block_with_grouped_convolutions():
    head, x = entries.R3Head(16), noise(2, 16, 4, 4)
    torch.testing.assert_close(head(x)[:, 0], x.mean((2, 3)) @ head.out.weight[0])
    nn.init.normal_(head.layers[-1].weight)
    first, grouped, last = (head.layers[place] for place in (0, 2, 4))
    hidden = leaky(torch.einsum("oi,bihw->bohw", first.weight[:, :, 0, 0], x) + first.bias[:, None, None])
    parts = zip(hidden.split(2, 1), grouped.weight.split(2), strict=True)
    hidden = torch.cat([torch.nn.functional.conv2d(part, weight, padding=1) for part, weight in parts], 1)
    added = torch.einsum("oi,bihw->bohw", last.weight[:, :, 0, 0], leaky(hidden + grouped.bias[:, None, None]))
    expected = (x + added).mean((2, 3)) @ head.out.weight[0]
    torch.testing.assert_close(head(x)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_apt_s_penalty_is_100_times_the_squared_change_by_a_little_noise():
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    real, fake = noise(4, 1, 4, 4), noise(4, 1, 4, 4, seed=1)
    got = ZOO["APT"]["regularizer"](r3_batch(head, real, fake))
    perturbed = real + 0.01 * torch.randn(4, 1, 4, 4, generator=generator(3))
    torch.testing.assert_close(got, 100 * (head(real) - head(perturbed)).square().mean())


def test_apt_s_token_attends_to_each_level():
    head, x = entries.APTHead([4, 6]), [noise(2, 4, 4, 4), noise(2, 6, 2, 2)]
    seen = []
    for place, feature in enumerate(x):
        tokens = group_norm(feature, 1).flatten(2)
        scores = torch.einsum("bcn,c->bn", tokens, head.queries[place]).exp()
        mean = torch.einsum("bcn,bn->bc", tokens, scores) / scores.sum(1, keepdim=True)
        seen.append(mean @ head.values[place].weight.T + head.values[place].bias)
    expected = torch.cat(seen, 1) @ head.out.weight.T + head.out.bias
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-5)


def test_vision_aided_loss_is_cross_entropy_with_label_0_8():
    loss, real, fake = ZOO["Vision-aided GAN"]["gan_loss"], noise(7), noise(7, seed=1)

    def cross_entropy(logits: Tensor, label: float) -> Tensor:
        p = torch.sigmoid(logits)
        return -(label * p.log() + (1 - label) * (1 - p).log()).mean()

    expected = cross_entropy(real, 0.8) + cross_entropy(fake, 0.0)
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(loss.generator(real, fake), cross_entropy(fake, 0.8))
    torch.testing.assert_close(label_smoothing(1.0).generator(real, fake), cross_entropy(fake, 1.0))


@pytest.mark.parametrize(("name", "mean"), [("LADD", 1.0), ("SANA-Sprint", math.log(math.exp(-0.6) / 0.5))])
def test_logarithm_of_noise_over_signal_is_normal(name, mean):
    """LADD: τ/(1 − τ) of rectified flow; SANA-Sprint: tan t = e^n / σ_d of TrigFlow; ours: √(1 − ᾱ) / √ᾱ."""
    t = ZOO[name]["sample_t_star"](500, 4000, {}, generator())
    alpha = TimestepShiftLCMScheduler().alphas_cumprod[t]
    ratio = ((1 - alpha) / alpha).log() / 2
    assert ratio.median().item() == pytest.approx(mean, abs=0.05)
    low, high = ratio.quantile(torch.tensor([0.25, 0.75]))
    assert (high - low).item() == pytest.approx(1.349, abs=0.1)  # of a unit normal
    assert logit_normal(-9.0, 0.1)(500, 3, {}, generator()).tolist() == [0, 0, 0]


def test_diffusion_gan_adds_noise_as_far_as_heads_overfit():
    """Probability rises with t up to T; T from 5 to 500; at most 48 of 64 samples are noised."""
    law = ZOO["Diffusion-GAN"]["sample_t_star"]
    assert law(500, 1000, {"logit_gap": torch.zeros(1, 10, 1)}, generator()).max() == 0
    assert law(500, 1000, {"logit_gap": torch.full((1, 10, 1), -3.0)}, generator()).max() == 0
    t = law(500, 20000, {"logit_gap": torch.full((1, 10, 1), 9.0)}, generator()).float()
    assert (t == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert t.max() < 500
    assert t[t > 0].mean().item() == pytest.approx(500 * 2 / 3, rel=0.01)
    gap = 4 * math.atanh(0.3)  # mean sign 0.3, half the target
    t = law(500, 20000, {"logit_gap": torch.full((1, 10, 1), gap)}, generator()).float()
    assert (t == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert t.max().item() == pytest.approx(5 + 495 / 2, abs=2)
