"""The critics' eyes: the features of a full forward, on any UNet, and nothing that anybody could train."""

import pytest
import tiny_sdxl
import torch
from torch import nn

from nitro_lab.backbone import FrozenBackbone, level_channels
from nitro_lab.mini.parts import LATENT_SIZE
from nitro_lab.sampling import Conditioning, encode_prompts, predict_noise
from nitro_lab.studies.sdxl import make_unet as make_sdxl_unet

PROMPTS = ["a large solid red star in the center on a night background", "a small blue ring"]
SDXL_CHANNELS = (320, 320, 320, 320, 640, 640, 640, 1280, 1280, 1280)


@pytest.fixture
def told(untrained_pipeline) -> Conditioning:
    with torch.no_grad():
        return encode_prompts(untrained_pipeline, PROMPTS)


@pytest.fixture
def backbone(untrained_parts) -> FrozenBackbone:
    return FrozenBackbone(untrained_parts["unet"])


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def full_forward(unet, latents, t, conditioning) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What the decoder is given, and the UNet's output, of a forward through all of it."""
    given = []
    hooks = [
        unet.mid_block.register_forward_hook(lambda module, inputs, output: given.append(output)),
        *(
            block.register_forward_pre_hook(
                lambda module, args, kwargs: given.append(kwargs["res_hidden_states_tuple"]), with_kwargs=True
            )
            for block in unet.up_blocks
        ),
    ]
    output = predict_noise(unet, latents, t, conditioning)
    for hook in hooks:
        hook.remove()
    mid, *skips = given  # the decoder takes skip tensors from the last to the first
    return [*(tensor for group in reversed(skips) for tensor in group), mid], output


@torch.no_grad()
@pytest.mark.parametrize("t", [10, 750])
@pytest.mark.parametrize("side", [LATENT_SIZE, LATENT_SIZE // 2])
def test_features_are_what_a_full_forward_gives_its_decoder(untrained_parts, backbone, told, t, side):
    latents = noise(2, 4, side, side)
    wanted, _ = full_forward(untrained_parts["unet"], latents, t, told)
    features = backbone(latents, t, told)
    assert len(features) == 10
    for feature, reference in zip(features, wanted, strict=True):
        assert torch.equal(feature, reference)
    assert tuple(feature.shape[1] for feature in features) == backbone.channels


@torch.no_grad()
def test_features_of_a_unet_of_another_shape(told):
    unet = tiny_sdxl.make_unet().eval()
    conditioning = Conditioning(noise(2, 5, 2 * tiny_sdxl.WIDTH), noise(2, tiny_sdxl.WIDTH), torch.zeros(2, 6))
    backbone = FrozenBackbone(unet)
    wanted, _ = full_forward(unet, noise(2, 4, 8, 8), 250, conditioning)
    features = backbone(noise(2, 4, 8, 8), 250, conditioning)
    assert [feature.shape for feature in features] == [reference.shape for reference in wanted]
    assert all(map(torch.equal, features, wanted))
    assert backbone.channels == (8, 8, 8, 16, 16)


def test_sdxl_at_full_size_has_ten_levels():
    with torch.device("meta"):
        unet = make_sdxl_unet()
        conditioning = Conditioning(torch.empty(1, 77, 2048), torch.empty(1, 1280), torch.empty(1, 6))
        backbone = FrozenBackbone(unet)
        features = backbone(torch.empty(1, 4, 128, 128), 500, conditioning)
    assert level_channels(unet) == backbone.channels == SDXL_CHANNELS
    assert tuple(feature.shape[1] for feature in features) == SDXL_CHANNELS
    assert [feature.shape[2] for feature in features] == [128] * 3 + [64] * 3 + [32] * 4


@torch.no_grad()
def test_whole_unet_is_left_as_it_was(untrained_parts, told):
    unet = untrained_parts["unet"]
    before = predict_noise(unet, noise(2, 4, LATENT_SIZE, LATENT_SIZE), 500, told)
    names = [name for name, _ in unet.named_parameters()]
    decoder = unet.up_blocks
    FrozenBackbone(unet)
    assert unet.up_blocks is decoder
    assert len(decoder) == 3
    assert [name for name, _ in unet.named_parameters()] == names
    assert torch.equal(predict_noise(unet, noise(2, 4, LATENT_SIZE, LATENT_SIZE), 500, told), before)


@torch.no_grad()
def test_training_the_unet_afterwards_does_not_change_what_critics_see(told):
    unet = tiny_sdxl.make_unet().eval()
    conditioning = Conditioning(noise(2, 5, 2 * tiny_sdxl.WIDTH), noise(2, tiny_sdxl.WIDTH), torch.zeros(2, 6))
    backbone = FrozenBackbone(unet)
    before = backbone(noise(2, 4, 8, 8), 250, conditioning)
    for weight in unet.parameters():
        weight += 1
    assert all(map(torch.equal, before, backbone(noise(2, 4, 8, 8), 250, conditioning)))


class Parent(nn.Module):
    """Somebody's training, with the backbone as a part of it."""

    def __init__(self, backbone: FrozenBackbone):
        super().__init__()
        self.backbone = backbone
        self.other = nn.Linear(1, 1)


def test_no_parent_can_train_it(backbone):
    parent = Parent(backbone)
    parent.train()
    parent.requires_grad_(True)
    assert parent.other.training
    assert not any(module.training for module in backbone.modules())
    assert [name for name, _ in parent.named_parameters()] == ["other.weight", "other.bias"]
    assert not any(buffer.requires_grad for buffer in backbone.buffers())
    assert parent.state_dict().keys() == {"other.weight", "other.bias"}


def test_gradients_reach_latents_from_every_level_and_nothing_else(backbone, told):
    Parent(backbone).train().requires_grad_(True)
    latents = noise(2, 4, LATENT_SIZE, LATENT_SIZE).requires_grad_()
    features = backbone(latents, 250, told)
    for feature in features:
        (gradient,) = torch.autograd.grad(feature.square().sum(), latents, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().amax((1, 2, 3)).min() > 0
    assert all(buffer.grad is None for buffer in backbone.buffers())


@torch.no_grad()
def test_maps_are_not_kept_after_a_look(backbone, told):
    backbone(noise(2, 4, 8, 8), 250, told)
    assert backbone.maps == []
