"""`python -m tools.miniature build` trains the miniature, `python -m tools.miniature install RUN` adds a student."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import torch
import tyro
from tqdm.auto import tqdm

from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.weights import CheckpointError
from tools.miniature.build import STAGES, Miniature
from tools.miniature.card import write_card
from tools.miniature.figures import measure
from tools.miniature.provenance import stamp
from tools.miniature.recipes import RECIPES
from tools.miniature.student_card import install as install_student

__all__ = ["build", "main"]


def build(recipe: str | None = None, out: Path | None = None, device: str | None = None, install: bool = False) -> None:
    """Train, measure and export the miniature. The same command resumes an interrupted one.

    Args:
        recipe: cpu, cpu-more, cpu-student, cuda or smoke; default: cuda if available, else cpu.
        out: folder of the checkpoints and the model; default: build/mini-RECIPE.
        device: default: cuda if available, else cpu.
        install: copy the model over the one in the package.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = recipe or ("cuda" if device.startswith("cuda") else "cpu")
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; choose from {', '.join(RECIPES)}.")
    if name == "cuda" and not device.startswith("cuda"):
        raise ValueError(f"recipe cuda on {device} would take weeks. Use --recipe cpu, or a machine with a CUDA GPU.")
    out = out or Path("build") / f"mini-{name}"
    miniature = Miniature(RECIPES[name], out, torch.device(device))
    stamp(out)
    _train_with_bars(miniature)

    unfinished, model = out / "model.unfinished", out / "model"
    shutil.rmtree(unfinished, ignore_errors=True)
    miniature.export(unfinished)
    miniature.reload(unfinished)  # measure the exported weights: float16
    figures, samples = measure(miniature)
    samples.savefig(unfinished / "samples.png", dpi=90)
    (unfinished / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    write_card(miniature, unfinished, figures)
    _replace_folder(unfinished, model)
    print(pd.DataFrame(figures).to_string(na_rep="", float_format="{:.4f}".format))
    print(f"The model is in {model}; its README.md is the model card.")
    if install:
        beside = MODEL_FOLDER.with_name("model.unfinished")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(model, beside)
        _replace_folder(beside, MODEL_FOLDER)
        print(f"Installed in {MODEL_FOLDER}, without a trained student. To train and install one:")
        print("  nitro-lab train --out build/distill && python -m tools.miniature install build/distill")


def _train_with_bars(miniature: Miniature) -> None:
    """Train all stages with one bar each; complete stages have none."""
    bars: dict[str, tqdm] = {}
    for stage, progress in miniature.train():
        if stage not in bars:
            title = f"{STAGES.index(stage) + 1}/{len(STAGES)} {stage}"
            bars[stage] = tqdm(total=progress.total, initial=progress.step - 1, desc=title.ljust(14))
        bars[stage].set_postfix_str(f"loss {progress.loss:.4f}", refresh=False)
        bars[stage].update()
        if progress.step == progress.total:
            bars[stage].close()


def _replace_folder(new: Path, old: Path) -> None:
    """Move a complete folder to the place of an old one, which is deleted afterwards."""
    aside = old.with_name(old.name + ".old")
    if old.exists():
        shutil.rmtree(aside, ignore_errors=True)
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def main() -> int:
    """Run one command; expected errors become one line. Returns the exit status."""
    try:
        tyro.extras.subcommand_cli_from_dict({"build": build, "install": install_student}, description=__doc__)
    except (ValueError, CheckpointError) as error:
        print(f"tools.miniature: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tools.miniature: interrupted. The same command resumes from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
