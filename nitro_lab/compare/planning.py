"""Which runs a comparison needs: each variant's change is applied to one config, for each seed."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nitro_lab.checkpoints import load_pipeline
from nitro_lab.compare.run import Run
from nitro_lab.distill_config import DistillConfig
from nitro_lab.ideas import HeadMaker, Ideas
from nitro_lab.mini.judge import load_judge
from nitro_lab.studio import read_prompts
from nitro_lab.teacher_samples import describe, fingerprint, key_of

Change = HeadMaker | Ideas | Mapping[str, Any]
BASE = DistillConfig(save_every=100)  # each save draws pictures
SETTINGS = {f.name for f in fields(DistillConfig)}
PARTS = {f.name for f in fields(Ideas)}
OURS = {"seed": "seeds", "steps": "steps"}  # settings that are arguments of a comparison


def plan(
    changes: Mapping[str, Change],
    seeds: int | Sequence[int],
    steps: int,
    folder: Path,
    images: int,
    config: DistillConfig = BASE,
) -> list[Run]:
    """All runs, the first seed of every variant first. Arguments as in `nitro_lab.compare.compare`.

    Raises:
        ValueError: if a change cannot be; the message says which and why.
    """
    if not changes:
        raise ValueError("changes is empty; give {name: change}, for example {'full': {}, 'mine': MyHead}.")
    if images < 10:
        raise ValueError(f"images is {images}; the distances need at least 10, and mean little below 256.")
    variants = {name: apply(name, change, config) for name, change in changes.items()}
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    if not numbers:
        raise ValueError(f"seeds is {seeds!r}; give how many, at least 1, or a list of them.")
    weights = cache(weights_of)  # for this plan only: files may be replaced before the next
    runs = []
    for seed in numbers:
        for name, (changed, ideas) in variants.items():
            settings = replace(changed, seed=seed, steps=steps, separate_chance=True)
            key = key_of_run(settings, ideas, images, weights(settings.teacher, settings.student))
            runs.append(Run(name, settings, images, key, folder / key, ideas))
    return runs


def apply(name: str, change: Change, config: DistillConfig) -> tuple[DistillConfig, Ideas]:
    """Settings and ideas of a variant."""
    if isinstance(change, Ideas):
        return config, change
    if not isinstance(change, Mapping):
        return config, named(name, lambda: Ideas(head=change))
    unknown = sorted(change.keys() - SETTINGS - PARTS)
    if unknown or change.keys() & OURS.keys():
        told = ", ".join(unknown) or ", ".join(sorted(change.keys() & OURS.keys()))
        raise ValueError(
            f"Variant {name!r} changes {told}; a change may name settings of DistillConfig but seed and steps, which "
            f"are arguments of compare, and ideas: {', '.join(sorted(PARTS))}."
        )
    parts = {key: value for key, value in change.items() if key in PARTS and not said_in_words(key, value)}
    settings = {key: as_setting(value) for key, value in change.items() if key not in parts}
    return named(name, lambda: (replace(config, **settings), Ideas(**parts)))


def said_in_words(name: str, value: Any) -> bool:
    """Views and the objective can be named in the config too."""
    return name in SETTINGS and isinstance(value, (str, tuple, list))


def as_setting(value: Any) -> Any:
    """Settings of several values are tuples, so that a config can be compared and hashed."""
    return tuple(value) if isinstance(value, list) else value


def named(name: str, make: Any) -> Any:
    """Say whose change it is that cannot be."""
    try:
        return make()
    except (ValueError, TypeError) as error:
        raise ValueError(f"Variant {name!r}: {error}") from error


def key_of_run(config: DistillConfig, ideas: Ideas, images: int, weights: Mapping[str, str]) -> str:
    """A hash of all that the marks depend on, but the library's own code and the machine, which the result tells."""
    prompts = key_of({}, read_prompts(config)) if config.prompts else ""
    matters = {
        "settings": config.outcome() | {"steps": config.steps, "prompts": prompts},
        "ideas": ideas.fingerprints(),
        "weights": weights,
        "images": images,
    }
    return hashlib.blake2b(json.dumps(matters, sort_keys=True).encode(), digest_size=8).hexdigest()


def weights_of(teacher: str, student: str) -> dict[str, str]:
    """Hashes of all models that a run and its exam use."""
    pipe, start = (load_pipeline(name, device="cpu", dtype=torch.float32) for name in (teacher, student))
    judge = load_judge(torch.device("cpu"))
    others = {"vae": fingerprint(pipe.vae), "student": fingerprint(start.unet), "judge": fingerprint(judge)}
    return describe(pipe) | others | {"schedule": start.scheduler.to_json_string()}


def unfinished(runs: Iterable[Run]) -> Iterator[Run]:
    """Runs that are not on disk; of several with one key, the first."""
    met = set()
    for run in runs:
        if run.key not in met and not run.found():
            met.add(run.key)
            yield run
