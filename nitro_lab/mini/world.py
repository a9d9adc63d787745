"""The captioned world of the miniature: six factors, 9,600 captions, a tenth of them held out.

A scene is a row of six integers, one index for each entry of `FACTORS`. Everything here is a pure function;
`nitro_lab.mini.render` turns rows into pictures.
"""

import torch

FACTORS: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "texture": ("solid", "striped", "dotted", "checkered", "speckled"),
    "color": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
    "shape": ("circle", "square", "triangle", "star", "ring", "heart"),
    "place": ("left", "right", "top", "bottom", "center"),
    "background": ("night", "sunset", "ocean", "meadow"),
}
PLACE_PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "center": "in the center",
}
HELD_OUT_SHARE = 0.1
HELD_OUT_SEED = 2412  # the split is part of the world: another seed would make published figures incomparable


def all_scenes() -> torch.Tensor:
    """Every combination of the factors. (9600, 6) integers."""
    return torch.cartesian_prod(*(torch.arange(len(values)) for values in FACTORS.values()))


def split_scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """The fixed split of all scenes: (8640, 6) to train on and (960, 6) that no training may see."""
    scenes = all_scenes()
    order = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    held_out = round(len(scenes) * HELD_OUT_SHARE)
    return scenes[order[held_out:]], scenes[order[:held_out]]


def draw_scenes(scenes: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` rows of `scenes` with replacement. (count, 6), on the generator's device."""
    rows = torch.randint(len(scenes), (count,), generator=generator, device=generator.device)
    return scenes.to(generator.device)[rows]


def caption(scene: torch.Tensor, said: torch.Tensor | None = None) -> str:
    """Words of one scene, for example ``a large striped red star at the top on a sunset background``.

    Args:
        scene: (6,) integers, one index for each factor.
        said: (6,) booleans; a factor that is False stays unsaid (an unsaid shape is called "shape").
    """
    said_flags = [True] * len(FACTORS) if said is None else said.tolist()
    words = {
        name: values[index] if is_said else ""
        for (name, values), index, is_said in zip(FACTORS.items(), scene.tolist(), said_flags, strict=True)
    }
    thing = " ".join(filter(None, (words["size"], words["texture"], words["color"], words["shape"] or "shape")))
    parts = [with_article(thing), PLACE_PHRASES.get(words["place"], "")]
    if words["background"]:
        parts.append("on " + with_article(words["background"] + " background"))
    return " ".join(filter(None, parts))


def with_article(noun_phrase: str) -> str:
    """``orange ring`` -> ``an orange ring``."""
    return ("an " if noun_phrase[0] in "aeiou" else "a ") + noun_phrase


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    words = {word for values in FACTORS.values() for word in values}
    words |= {word for phrase in PLACE_PHRASES.values() for word in phrase.split()}
    return sorted(words | {"a", "an", "background", "shape"})
