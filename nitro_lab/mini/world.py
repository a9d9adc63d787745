"""The captioned world of the miniature: six factors, 9,600 scenes, a tenth of them held out.

A scene is a row of six integers, one index for each entry of `FACTORS`. `nitro_lab.mini.render` draws scenes.
"""

import re

import torch

__all__ = ["FACTORS", "all_scenes", "caption", "sample_scenes", "split_scenes", "vocabulary"]

FACTORS: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "texture": ("solid", "striped", "dotted", "checkered", "speckled"),
    "color": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
    "shape": ("circle", "square", "triangle", "star", "ring", "heart"),
    "place": ("left", "right", "top", "bottom", "center"),
    "background": ("night", "sunset", "ocean", "meadow"),
}
_PLACE_PHRASES = ("on the left", "on the right", "at the top", "at the bottom", "in the center")
_HELD_OUT_SEED = 2412  # part of the world's definition: with another seed, published figures are not comparable


def all_scenes() -> torch.Tensor:
    """Return every combination of the factors, (9600, 6) integers."""
    return torch.cartesian_prod(*(torch.arange(len(values)) for values in FACTORS.values()))


def split_scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the fixed split of all scenes: (8640, 6) for training and (960, 6) held out."""
    scenes = all_scenes()
    order = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(_HELD_OUT_SEED))
    held_out = len(scenes) // 10
    return scenes[order[held_out:]], scenes[order[:held_out]]


def sample_scenes(scenes: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Sample `count` rows of `scenes` with replacement. (count, 6), on the generator's device."""
    rows = torch.randint(len(scenes), (count,), generator=generator, device=generator.device)
    return scenes.to(generator.device)[rows]


def caption(scene: torch.Tensor, mentioned: torch.Tensor | None = None) -> str:
    """Describe one scene, for example ``a large striped red star at the top on a sunset background``.

    Args:
        scene: (6,) integers, one index for each factor.
        mentioned: (6,) booleans; factors that are False are left out (a shape that is left out becomes "shape").
    """
    keep = [True] * len(FACTORS) if mentioned is None else mentioned.tolist()
    values = zip(FACTORS.items(), scene.tolist(), keep, strict=True)
    words = {name: choices[index] if kept else "" for (name, choices), index, kept in values}
    place = dict(zip(FACTORS["place"], _PLACE_PHRASES, strict=True)).get(words["place"], "")
    background = f"on a {words['background']} background" if words["background"] else ""
    parts = ("a", words["size"], words["texture"], words["color"], words["shape"] or "shape", place, background)
    return re.sub(r"\ba (?=[aeiou])", "an ", " ".join(filter(None, parts)))


def vocabulary() -> list[str]:
    """Return every word that a caption can contain, sorted."""
    words = {word for values in FACTORS.values() for word in values}
    words |= {word for phrase in _PLACE_PHRASES for word in phrase.split()}
    return sorted(words | {"a", "an", "background", "shape"})
