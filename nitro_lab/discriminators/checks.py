"""Rules for discriminator heads, and checks of a head on example features.

A head is made from a channel count, `head(channels)`, and maps features (B, C, h, w) to logits:
- any number per image, (B, ...), for every feature size that the views lead to; the losses average them;
- it has trainable parameters, and gradients flow through it to the features; frozen parameters and buffers stay as the
  constructor made them, each head its own;
- it keeps no state between calls, as BatchNorm and spectral_norm do; dropout is allowed;
- it scores each image independently of the others, unless its class sets `mixes_samples = True`.

What else its `forward` names, it gets: `pooled_prompt_embeds` (B, P), those that the backbone got, the empty prompt's
in unconditional views; `t_star` (B,), timesteps; `view` and `level`, integers. If its constructor names `text_dim`, it
gets P. If its class sets `all_levels = True`, one head sees all feature levels: it is made from the list of their
channel counts and called with the list of their features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nitro_lab.discriminators.inputs import Maps, ViewFeatures, as_list, channels_of, requested_inputs
from nitro_lab.randomness import global_seed_from, seeded

__all__ = ["HeadError", "check_head", "check_heads"]

_SEE = "For the rules, see help(nitro_lab.discriminators.checks)."


class HeadError(ValueError):
    """A head breaks one of the rules above."""


def check_heads(head: Callable[..., nn.Module], views: Sequence[ViewFeatures]) -> None:
    """Call `check_head` on the features of some views, once for each shape."""
    checked = set()
    for view in views:
        for place, maps in enumerate(view.maps):
            if (shapes := _shapes(maps)) not in checked:
                checked.add(shapes)
                check_head(head, view, place)


def check_head(head: Callable[..., nn.Module], view: ViewFeatures, place: int = 0) -> None:
    """Check a head on the map at `place` of two or more images.

    Raises a HeadError if it breaks a rule; the message says which, and what to do.
    """
    maps = view.maps[place]
    (channels,) = channels_of(ViewFeatures([maps]))
    try:
        module = seeded(0, lambda: head(channels))
    except Exception as error:
        name = getattr(head, "__name__", type(head).__name__)
        raise HeadError(f"{name}({channels}) fails: {str(error).rstrip('.')}. {_SEE}") from error
    name = type(module).__name__
    if not isinstance(module, nn.Module):
        raise HeadError(f"head({channels}) returned a {name}; it must return an nn.Module. {_SEE}")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise HeadError(f"{name} has no trainable parameters, so it cannot learn; add a layer. {_SEE}")
    given = view.inputs(place, requested_inputs(module))
    module = module.to(as_list(maps)[0].device)
    (maps,) = ViewFeatures([maps]).changed(lambda x: x.clone().requires_grad_()).maps
    with torch.enable_grad():
        logits = _check_state(module, name, maps, given)
        _check_logits(logits, name, maps)
        _check_gradient(logits, name, maps)
        if not getattr(module, "mixes_samples", False):
            _check_independence(module, name, maps, given, logits)


def _shapes(maps: Maps) -> str:
    return ", ".join(str(tuple(x.shape)) for x in as_list(maps))


def _score(module: nn.Module, maps: Maps, given: Mapping[str, Any]) -> Any:
    """Return the head's output, with the same dropout in each call."""
    with global_seed_from(torch.Generator().manual_seed(0)):
        return module(maps, **given)


def _check_state(module: nn.Module, name: str, maps: Maps, given: Mapping[str, Any]) -> Any:
    """Refuse heads that keep state between calls. Returns the output."""
    before = {key: value.clone() for key, value in module.named_buffers()}
    try:
        first, second = (_score(module, maps, given) for _ in range(2))
    except Exception as error:
        raise HeadError(f"{name} fails on features {_shapes(maps)}: {str(error).rstrip('.')}. {_SEE}") from error
    changed = [key for key, value in module.named_buffers() if not torch.equal(value, before[key])]
    if changed or (isinstance(first, Tensor) and not torch.equal(first.nan_to_num(), second.nan_to_num())):
        what = f"a call changes {', '.join(changed)}" if changed else "a second call returns other logits"
        raise HeadError(f"{name} keeps state: {what}. Use GroupNorm, and no BatchNorm or spectral_norm. {_SEE}")
    return first


def _check_logits(logits: Any, name: str, maps: Maps) -> None:
    """Refuse outputs other than logits for each image."""
    batch = len(as_list(maps)[0])
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.shape[:1] != (batch,) or not logits.numel():
        raise HeadError(f"{name} maps features {_shapes(maps)} to {got}; it must return ({batch}, ...). {_SEE}")
    if not logits.isfinite().all():
        raise HeadError(f"{name} returns NaN or infinite logits for features {_shapes(maps)}. {_SEE}")


def _check_gradient(logits: Tensor, name: str, maps: Maps) -> None:
    """Refuse heads through which no finite gradient reaches the features."""
    inputs = as_list(maps)
    gradients = torch.autograd.grad(logits.sum(), inputs, allow_unused=True) if logits.requires_grad else ()
    found = [gradient for gradient in gradients if gradient is not None]
    if not found:
        raise HeadError(f"No gradient flows through {name} to the features; look for detach or argmax. {_SEE}")
    if not all(gradient.isfinite().all() for gradient in found):
        raise HeadError(f"{name} gives the features a NaN or infinite gradient (a square root of 0, perhaps). {_SEE}")


@torch.no_grad()
def _check_independence(module: nn.Module, name: str, maps: Maps, given: Mapping[str, Any], logits: Tensor) -> None:
    """Refuse heads whose logits depend on the other half of the batch, be it by detached statistics."""
    half = len(logits) // 2

    def change(values: Any) -> Any:
        if not isinstance(values, Tensor) or not values.is_floating_point():
            return values
        return torch.cat([values[:half], 1 - 2 * values[half:]])

    (mixed,) = ViewFeatures([maps]).changed(change).maps
    others = _score(module, mixed, {key: change(value) for key, value in given.items()})
    if not torch.allclose(others[:half], logits[:half], rtol=1e-4, atol=1e-6):
        problem = f"In {name}, images of a batch change each other's logits. Use GroupNorm or means over the map only"
        raise HeadError(f"{problem}, or set mixes_samples = True in its class. {_SEE}")
