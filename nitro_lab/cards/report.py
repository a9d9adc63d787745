"""`nitro-lab build-mini`: train with progress bars, measure, write the model folder, and install it if asked."""

import json
import shutil
from pathlib import Path

import torch
from tqdm.auto import tqdm

from nitro_lab.cards.figures import Figures, measure
from nitro_lab.cards.miniature import write_card
from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.build import STAGES, Miniature
from nitro_lab.mini.recipes import RECIPES
from nitro_lab.provenance import stamp


def build_and_report(recipe: str | None, out: Path | None, device: str | None, install: bool) -> Path:
    """Run the whole recipe. Killed at any moment and started again with the same words, it goes on.

    Args:
        recipe: a key of `RECIPES`; by default the one for this device.
        out: where snapshots and the model go; `build/mini-RECIPE` by default.
        device: CUDA if there is one, else the CPU.
        install: copy the model over the one in the package.

    Raises:
        ValueError: if the recipe is not for this device.

    Returns:
        The model folder.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = recipe or ("cuda" if device.startswith("cuda") else "cpu")
    if name == "cuda" and not device.startswith("cuda"):
        raise ValueError(f"recipe cuda on {device} would take weeks. Use --recipe cpu, or a machine with a CUDA GPU.")
    out = out or Path("build") / f"mini-{name}"
    miniature = Miniature(RECIPES[name], out, torch.device(device))
    stamp(out)
    show_progress(miniature)

    unfinished, model = out / "model.unfinished", out / "model"
    shutil.rmtree(unfinished, ignore_errors=True)
    miniature.export(unfinished)
    miniature.reload(unfinished)  # what is measured is what is shipped: float16
    figures = measure(miniature)
    (unfinished / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    write_card(miniature, unfinished, figures)
    replace(unfinished, model)
    print_figures(figures)
    print(f"The model is in {model}; its README.md is the model card.")
    if install:
        beside = MODEL_FOLDER.with_name("model.unfinished")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(model, beside)
        replace(beside, MODEL_FOLDER)
        print(f"Installed in {MODEL_FOLDER}. A student of the teacher before is gone with it, so train a new one:")
        print("  nitro-lab train --out build/distill && nitro-lab install build/distill")
    return model


def show_progress(miniature: Miniature) -> None:
    """Train all stages, one bar each. What earlier runs have done is filled in; a stage that is finished has no bar."""
    bars: dict[str, tqdm] = {}
    for stage, progress in miniature.train():
        if stage not in bars:
            title = f"{STAGES.index(stage) + 1}/{len(STAGES)} {stage}"
            bars[stage] = tqdm(total=progress.total, initial=progress.step - 1, desc=title.ljust(14))
        bars[stage].set_postfix_str(f"loss {progress.loss:.4f}", refresh=False)
        bars[stage].update()
        if progress.step == progress.total:
            bars[stage].close()


def replace(new: Path, old: Path) -> None:
    """Put a finished folder in the place of an old one, which is gone only when the new one is there."""
    aside = old.with_name(old.name + ".old")
    if old.exists():
        shutil.rmtree(aside, ignore_errors=True)
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def print_figures(figures: Figures) -> None:
    """The table at the end: a block for each heading."""
    for heading, rows in figures.items():
        print(f"\n{heading}")
        for name, value in rows.items():
            print(f"  {name:38s} {value:8.4f}")
