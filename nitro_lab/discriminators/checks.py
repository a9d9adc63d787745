"""Rules for discriminator heads, and checks of a head on example features.

A head is made from a channel count, `head(channels)`, and maps features (B, C, h, w) to logits:
- one per image, (B,) or (B, 1), or a map of them, (B, 1, h', w'), for every feature size that the views lead to;
- it has parameters, all of them trainable, and gradients flow through it to the features;
- it keeps no state between calls, as BatchNorm and spectral_norm do; constant buffers and dropout are allowed;
- it scores each image independently of the others, unless its class sets `mixes_samples = True`.
If its class sets `uses_pooled_prompt = True`, it is made by `head(channels, text_dim)` and called with the features and
the pooled prompt embeddings (B, text_dim) that the backbone got, the empty prompt's in unconditional views.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nitro_lab.randomness import seeded

__all__ = ["HeadError", "bind_text_dim", "check_head", "check_heads"]

_SEE = "For the rules, see help(nitro_lab.discriminators.checks)."


class HeadError(ValueError):
    """A head breaks one of the rules above."""


def bind_text_dim(head: Callable[..., nn.Module], text_dim: int) -> Callable[[int], nn.Module]:
    """Return a function of the channel count only, also for a class (or its `partial`) with `uses_pooled_prompt`."""
    cls: Any = head
    while isinstance(cls, partial):
        cls = cls.func
    return (lambda channels: head(channels, text_dim)) if getattr(cls, "uses_pooled_prompt", False) else head


def check_heads(head: Callable[[int], nn.Module], inputs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Call `check_head` on features (B, C, h, w) and pooled prompt embeddings (B, P), once for each shape."""
    for feature, pooled in {feature.shape: (feature, pooled) for feature, pooled in inputs}.values():
        check_head(head, feature, pooled)


def check_head(head: Callable[[int], nn.Module], feature: Tensor, pooled_prompt_embeds: Tensor) -> None:
    """Check a head on features (B, C, h, w) of at least two images, and their pooled prompt embeddings (B, P).

    Raises:
        HeadError: if it breaks a rule; the message says which, and what to do.
    """
    channels = feature.shape[1]
    module = seeded(0, lambda: head(channels))
    name = type(module).__name__
    if not isinstance(module, nn.Module):
        raise HeadError(f"head({channels}) returned a {name}; it must return an nn.Module. {_SEE}")
    _check_parameters(module, name)
    module = module.to(feature.device)
    feature = feature.clone().requires_grad_()
    with torch.enable_grad():
        logits = _check_state(module, name, feature, pooled_prompt_embeds)
        _check_logits(logits, name, feature)
        _check_gradient(logits, name, feature)
        if not getattr(module, "mixes_samples", False):
            _check_independence(module, name, feature, pooled_prompt_embeds, logits)


def _score(module: nn.Module, feature: Tensor, pooled: Tensor) -> Any:
    """Return the head's output, with the same dropout in each call."""
    inputs = (feature, pooled) if getattr(module, "uses_pooled_prompt", False) else (feature,)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return module(*inputs)


def _check_parameters(module: nn.Module, name: str) -> None:
    """Refuse heads without parameters or with frozen ones, which the pool would train, too."""
    frozen = [key for key, parameter in module.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise HeadError(f"{name} has frozen parameters: {', '.join(frozen)}. Register them as buffers. {_SEE}")
    if not list(module.parameters()):
        raise HeadError(f"{name} has no parameters, so it cannot learn; add a layer. {_SEE}")


def _check_state(module: nn.Module, name: str, feature: Tensor, pooled: Tensor) -> Any:
    """Refuse heads that keep state between calls. Returns the output."""
    before = {key: value.clone() for key, value in module.named_buffers()}
    try:
        first, second = (_score(module, feature, pooled) for _ in range(2))
    except Exception as error:
        raise HeadError(f"{name} fails on features {tuple(feature.shape)}: {str(error).rstrip('.')}. {_SEE}") from error
    changed = [key for key, value in module.named_buffers() if not torch.equal(value, before[key])]
    if changed or (isinstance(first, Tensor) and not torch.equal(first.nan_to_num(), second.nan_to_num())):
        what = f"a call changes {', '.join(changed)}" if changed else "a second call returns other logits"
        raise HeadError(f"{name} keeps state: {what}. Use GroupNorm, and no BatchNorm or spectral_norm. {_SEE}")
    return first


def _check_logits(logits: Any, name: str, feature: Tensor) -> None:
    """Refuse outputs other than one logit per image or a map of them."""
    batch = len(feature)
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    allowed = f"({batch},), ({batch}, 1) or ({batch}, 1, h, w)"
    if not isinstance(logits, Tensor) or logits.shape[:1] != (batch,) or logits.dim() not in (1, 2, 4):
        raise HeadError(f"{name} maps features {tuple(feature.shape)} to {got}; it must return {allowed}. {_SEE}")
    if logits.dim() > 1 and logits.shape[1] != 1:
        raise HeadError(f"{name} returns {got}: {logits.shape[1]} channels of logits; it must return {allowed}. {_SEE}")
    if not logits.isfinite().all():
        raise HeadError(f"{name} returns NaN or infinite logits for features {tuple(feature.shape)}. {_SEE}")


def _check_gradient(logits: Tensor, name: str, feature: Tensor) -> None:
    """Refuse heads through which no finite gradient reaches the features."""
    gradient = None
    if logits.requires_grad:
        (gradient,) = torch.autograd.grad(logits.sum(), feature, allow_unused=True)
    if gradient is None:
        raise HeadError(f"No gradient flows through {name} to the features; look for detach or argmax. {_SEE}")
    if not gradient.isfinite().all():
        raise HeadError(f"{name} gives the features a NaN or infinite gradient (a square root of 0, perhaps). {_SEE}")


@torch.no_grad()
def _check_independence(module: nn.Module, name: str, feature: Tensor, pooled: Tensor, logits: Tensor) -> None:
    """Refuse heads whose logits depend on the other half of the batch, be it by detached statistics."""
    half = len(feature) // 2
    others = [torch.cat([values[:half], 1 - 2 * values[half:]]) for values in (feature, pooled)]
    if not torch.allclose(_score(module, *others)[:half], logits[:half], rtol=1e-4, atol=1e-6):
        raise HeadError(
            f"In {name}, images of a batch change each other's logits. Use GroupNorm or means over the map only, or "
            f"set mixes_samples = True in its class. {_SEE}"
        )
