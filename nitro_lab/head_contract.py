"""What a head may and may not do. It is checked on real features before a run with a head of one's own begins.

A head is made from a channel count, `head(channels)`, and maps features (B, C, h, w) to logits:
- one an image, (B,) or (B, 1), or a map of them, (B, 1, h', w'), for every size of map that the views lead to;
- it has weights, and gradients flow through it to the features, from which the student learns;
- it holds no state from one call to the next: hundreds of heads take turns in one module. BatchNorm's statistics and
  spectral norm's vectors are state; GroupNorm is none. Constants are fine, and so is dropout;
- it judges each image by itself, unless its class says `mixes_images = True`.
If its class says `takes_pooled = True`, it is made by `head(channels, width)` and called with (feature, pooled): the
pooled text embedding (B, width) that the backbone was told, the empty prompt's in unconditional views.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

from nitro_lab.randomness import seeded

SEE = "See nitro_lab.head_contract for all that a head may do."


class HeadError(ValueError):
    """A head does what no head may."""


def takes_pooled(head: Callable[..., nn.Module]) -> bool:
    """Does a head's class, or a `partial` of it, ask for the pooled text embedding?"""
    while isinstance(head, partial):
        head = head.func
    return bool(getattr(head, "takes_pooled", False))


def bind_text(head: Callable[..., nn.Module], width: int) -> Callable[[int], nn.Module]:
    """A maker that needs the channel count alone."""
    if not takes_pooled(head):
        return head
    return lambda channels: head(channels, width)


def check_heads(head: Callable[[int], nn.Module], seen: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Check a head on features (B, C, h, w) with text (B, E), once for each shape.

    Raises:
        HeadError: if it breaks the contract; the message says how to mend it.
    """
    by_shape = {feature.shape: (feature, pooled) for feature, pooled in seen}
    for feature, pooled in by_shape.values():
        check_head(head, feature, pooled)


def check_head(head: Callable[[int], nn.Module], feature: torch.Tensor, pooled: torch.Tensor) -> None:
    """Check a head on one feature map (B, C, h, w) of at least two images, with their text (B, E)."""
    channels = feature.shape[1]
    module = seeded(0, lambda: head(channels))
    name = getattr(type(module), "__name__", str(module))
    if not isinstance(module, nn.Module):
        raise HeadError(f"head({channels}) gave a {name}; it must give an nn.Module. {SEE}")
    if not any(weight.requires_grad for weight in module.parameters()):
        raise HeadError(f"{name} has no weights, so it cannot learn; give it a layer. {SEE}")
    module = module.to(feature.device)
    feature = feature.clone().requires_grad_()
    with torch.enable_grad():
        logits = call_twice(module, name, feature, pooled)
        check_logits(logits, name, feature)
        check_gradient(logits, name, feature)
        if not getattr(module, "mixes_images", False):
            check_separation(module, name, feature, pooled, logits)


def call_twice(module: nn.Module, name: str, feature: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """Its logits, the same in both calls."""
    before = {key: value.clone() for key, value in module.named_buffers()}
    try:
        first, second = (judge(module, feature, pooled) for _ in range(2))
    except Exception as error:
        raise HeadError(f"{name} fails on features {tuple(feature.shape)}: {error} {SEE}") from error
    changed = [key for key, value in module.named_buffers() if not torch.equal(value, before[key])]
    if changed or (isinstance(first, torch.Tensor) and not torch.equal(first, second)):
        where = f"in {', '.join(changed)}" if changed else "and gave other logits the second time"
        raise HeadError(
            f"{name} keeps state from one call to the next, {where}. Many heads take turns in one module, so they "
            f"would mix up: use GroupNorm in place of BatchNorm, and no spectral_norm. {SEE}"
        )
    return first


def judge(module: nn.Module, feature: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """Its logits, with the same dropout each time, on whatever device."""
    seen = (feature, pooled) if getattr(module, "takes_pooled", False) else (feature,)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return module(*seen)


def check_logits(logits: torch.Tensor, name: str, feature: torch.Tensor) -> None:
    """One number an image, or a map of them."""
    count = len(feature)
    told = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    wanted = f"({count},), ({count}, 1) or ({count}, 1, h, w)"
    if not isinstance(logits, torch.Tensor) or logits.shape[:1] != (count,) or logits.dim() not in (1, 2, 4):
        raise HeadError(f"{name} made {told} of features {tuple(feature.shape)}; it must make {wanted}. {SEE}")
    if logits.dim() > 1 and logits.shape[1] != 1:
        raise HeadError(
            f"{name} made {told}: {logits.shape[1]} numbers where one logit belongs; end it with a layer to 1 channel, "
            f"so that it makes {wanted}. {SEE}"
        )
    if not logits.isfinite().all():
        raise HeadError(f"{name} made logits that are no numbers of features {tuple(feature.shape)}. {SEE}")


def check_gradient(logits: torch.Tensor, name: str, feature: torch.Tensor) -> None:
    """It reaches the features, and is a number there."""
    gradient = None
    if logits.requires_grad:
        (gradient,) = torch.autograd.grad(logits.sum(), feature, allow_unused=True)
    if gradient is None:
        raise HeadError(f"No gradient flows through {name} to the features; is there a detach, or an argmax? {SEE}")
    if not gradient.isfinite().all():
        raise HeadError(f"The gradient through {name} to the features is no number (a square root of 0?). {SEE}")


@torch.no_grad()
def check_separation(
    module: nn.Module, name: str, feature: torch.Tensor, pooled: torch.Tensor, logits: torch.Tensor
) -> None:
    """Other images and texts in half of a batch leave the logits of the other half as they were.

    Gradients would not tell: batch statistics may be detached. The batch keeps its size, so that dropout stays.
    """
    half = len(feature) // 2
    other_feature, other_pooled = (torch.cat([seen[:half], 1 - 2 * seen[half:]]) for seen in (feature, pooled))
    others = judge(module, other_feature, other_pooled)
    if not torch.allclose(others[:half], logits[:half], rtol=1e-4, atol=1e-6):
        raise HeadError(
            f"{name} lets images of a batch change each other's logits, as batch statistics do. If that is meant, "
            f"write mixes_images = True into its class; else use GroupNorm, or means over the map only. {SEE}"
        )
