"""The frozen encoder: the features of a full forward, for any UNet, and nothing that can be trained."""

import pytest
import tiny_sdxl
import torch
from torch import nn

from nitro_lab.backbones import FrozenUNetEncoder, FrozenVision
from nitro_lab.randomness import seeded
from nitro_lab.sampling import PromptEmbeds, encode_prompts, predict_noise
from tools.miniature.parts import LATENT_SIZE
from workbook.sdxl_size import make_parts


@pytest.fixture
def embeds(untrained_pipeline) -> PromptEmbeds:
    with torch.no_grad():
        return encode_prompts(untrained_pipeline, ["a large red star on a night background", "a small blue ring"])


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def decoder_inputs(unet, latents, t, embeds) -> list[torch.Tensor]:
    """What the decoder gets in a forward through the whole UNet."""
    inputs = []
    hooks = [unet.mid_block.register_forward_hook(lambda module, args, output: inputs.append(output))]
    for block in unet.up_blocks:
        hook = block.register_forward_pre_hook(
            lambda module, args, kwargs: inputs.append(kwargs["res_hidden_states_tuple"]), with_kwargs=True
        )
        hooks.append(hook)
    predict_noise(unet, latents, t, embeds)
    for hook in hooks:
        hook.remove()
    mid, *skips = inputs  # the decoder takes skip tensors from the last to the first
    return [*(tensor for group in reversed(skips) for tensor in group), mid]


@torch.no_grad()
@pytest.mark.parametrize("t", [10, 750])
@pytest.mark.parametrize("side", [LATENT_SIZE, LATENT_SIZE // 2])
def test_features_are_what_the_decoder_gets(untrained_parts, embeds, t, side):
    unet, latents = untrained_parts["unet"], noise(2, 4, side, side)
    before, names = decoder_inputs(unet, latents, t, embeds), [name for name, _ in unet.named_parameters()]
    backbone = FrozenUNetEncoder(unet)
    features, after = backbone(latents, t, embeds), decoder_inputs(unet, latents, t, embeds)
    assert len(features) == len(before) == len(after) == 10
    assert all(map(torch.equal, features, before))
    assert all(map(torch.equal, features, after))  # the UNet is left unchanged
    assert [name for name, _ in unet.named_parameters()] == names
    assert tuple(feature.shape[1] for feature in features) == backbone.channels


@torch.no_grad()
def test_features_of_a_unet_of_another_shape_stay_when_it_is_trained():
    unet, latents = tiny_sdxl.make_unet().eval(), noise(2, 4, 8, 8)
    embeds = PromptEmbeds(noise(2, 5, 2 * tiny_sdxl.WIDTH), noise(2, tiny_sdxl.WIDTH), torch.zeros(2, 6))
    expected, backbone = decoder_inputs(unet, latents, 250, embeds), FrozenUNetEncoder(unet)
    for weight in unet.parameters():
        weight += 1
    assert all(map(torch.equal, backbone(latents, 250, embeds), expected))
    assert backbone.channels == tuple(reference.shape[1] for reference in expected) == (8, 8, 8, 16, 16)


def test_full_size_sdxl_has_ten_levels():
    unet = make_parts()["UNet"]
    with torch.device("meta"):
        embeds = PromptEmbeds(torch.empty(1, 77, 2048), torch.empty(1, 1280), torch.empty(1, 6))
        backbone = FrozenUNetEncoder(unet)
        features = backbone(torch.empty(1, 4, 128, 128), 500, embeds)
    assert list(backbone.channels) == [320] * 4 + [640] * 3 + [1280] * 3
    assert [feature.shape[1] for feature in features] == list(backbone.channels)
    assert [feature.shape[2] for feature in features] == [128] * 3 + [64] * 3 + [32] * 4


def test_a_parent_cannot_train_or_save_it_and_gradients_reach_the_latents(untrained_parts, embeds):
    backbone = FrozenUNetEncoder(untrained_parts["unet"])
    parent = nn.ModuleDict({"backbone": backbone, "other": nn.Linear(1, 1)}).train().requires_grad_(True)
    assert not any(module.training for module in backbone.modules())
    assert {name for name, _ in parent.named_parameters()} == parent.state_dict().keys()
    assert parent.state_dict().keys() == {"other.weight", "other.bias"}
    assert not any(buffer.requires_grad for buffer in backbone.buffers())
    latents = noise(2, 4, LATENT_SIZE, LATENT_SIZE).requires_grad_()
    for feature in backbone(latents, 250, embeds):
        (gradient,) = torch.autograd.grad(feature.square().sum(), latents, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().amax((1, 2, 3)).min() > 0


@torch.no_grad()
@pytest.mark.parametrize("side", [LATENT_SIZE, LATENT_SIZE // 2])
def test_levels_of_the_decoder_are_the_hidden_states_after_its_blocks(untrained_parts, embeds, side):
    unet, latents, states = untrained_parts["unet"], noise(2, 4, side, side), []
    hooks = [
        block.register_forward_hook(lambda module, args, output: states.append(output)) for block in unet.up_blocks
    ]
    expected = decoder_inputs(unet, latents, 500, embeds) + states
    for hook in hooks:
        hook.remove()
    backbone = FrozenUNetEncoder(unet, decoder=True)
    features = backbone(latents, 500, embeds)
    assert len(features) == 13
    assert all(map(torch.equal, features, expected))
    assert tuple(feature.shape[1] for feature in features) == backbone.channels
    prediction = unet.conv_out(unet.conv_act(unet.conv_norm_out(features[-1])))
    torch.testing.assert_close(prediction, predict_noise(unet, latents, 500, embeds))


def make_vision_network() -> nn.Sequential:
    """A network as of image classifiers, in train mode."""
    layers = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, stride=2)
    return nn.Sequential(*layers, nn.Flatten())


@pytest.mark.parametrize("side", [LATENT_SIZE, LATENT_SIZE // 2])
def test_vision_network_sees_decoded_pixels_and_gradients_pass_the_vae(untrained_pipeline, embeds, side):
    vae, network = untrained_pipeline.vae, seeded(0, make_vision_network)
    backbone = FrozenVision(vae, network, ["1", "2"])
    latents = noise(2, 4, side, side).requires_grad_()
    first, second = backbone(latents, torch.tensor([10, 10]), embeds)
    pixels = vae.decode(latents / vae.config.scaling_factor).sample
    assert pixels.shape == (2, 3, 4 * side, 4 * side)
    network.eval()
    expected = network[:2](pixels), network[:3](pixels)
    gradients = []
    for ours, theirs in zip((first, second), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        gradients.append([torch.autograd.grad(x.square().sum(), latents, retain_graph=True)[0] for x in (ours, theirs)])
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().amax((1, 2, 3)).min() > 0
    assert backbone.channels == (first.shape[1], second.shape[1]) == (6, 8)
    assert list(backbone.parameters()) == []
    assert list(network.parameters())
    assert list(vae.parameters())
