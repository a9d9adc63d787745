"""The workbook's verbs without a notebook: `run`, `train`, `sample`, `install`, `bench`, `evaluate`, `build-mini`."""

import argparse
import os
import sys
from pathlib import Path

from nitro_lab.loading.weight_files import CheckpointError
from nitro_lab.mini.recipes import RECIPES
from nitro_lab.training_verbs import LateParser, Verbs, add_bench, add_install, add_sample, add_train


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run one verb, and turn expected errors into one line. Returns the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        return options.verb(options)
    except (ValueError, FileNotFoundError, CheckpointError) as error:
        print(f"nitro-lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "nitro-lab: stopped. A training goes on from its last snapshot when the same command runs again.",
            file=sys.stderr,
        )
        return 130


def make_parser() -> argparse.ArgumentParser:
    """All verbs and their options. Heavy libraries are imported by the verbs, so that --help answers at once."""
    parser = argparse.ArgumentParser(prog="nitro-lab", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=LateParser)
    add_run(verbs)
    add_train(verbs)
    add_sample(verbs)
    add_install(verbs)
    add_bench(verbs)
    add_evaluate(verbs)
    add_build(verbs)
    return parser


def add_run(verbs: Verbs) -> None:
    """The verb run."""
    verb = verbs.add_parser("run", help="execute the notebooks and write them as HTML")
    verb.add_argument("--notebooks", type=Path, default=Path("notebooks"), metavar="FOLDER")
    verb.add_argument("--out", type=Path, default=Path("build"), metavar="FOLDER")
    verb.add_argument("--scale", choices=("full", "smoke"), default=os.environ.get("NITRO_LAB_SCALE", "full"))
    verb.add_argument("--write", action="store_true", help="write the outputs back into the notebooks")
    verb.set_defaults(verb=run)


def add_evaluate(verbs: Verbs) -> None:
    """The verb evaluate."""
    verb = verbs.add_parser("evaluate", help="measure models of the miniature's world beside their teacher")
    verb.add_argument("model", nargs="+", help="mini, or a folder in diffusers' layout")
    verb.add_argument("--unet", help="a student's weights in place of the model's, a .safetensors file")
    verb.add_argument("--shift", type=int, help="the student's shifted timestep in place of the model's")
    verb.add_argument("--steps", type=int, nargs="+", default=[1])
    verb.add_argument("--captions", default="held-out", help="held-out (default), training or all")
    verb.add_argument("--images", type=int, default=1000)
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    verb.set_defaults(verb=evaluate)


def add_build(verbs: Verbs) -> None:
    """The verb build-mini."""
    verb = verbs.add_parser("build-mini", help="train the miniature from nothing; goes on where it was cut")
    verb.add_argument("--recipe", choices=tuple(RECIPES), help="default: cuda where there is one, else cpu")
    verb.add_argument("--out", type=Path, metavar="FOLDER", help="default: build/mini-RECIPE")
    verb.add_argument("--device", help="default: cuda where there is one, else cpu")
    verb.add_argument(
        "--install", action="store_true", help="put the model in the package, in place of the shipped one"
    )
    verb.set_defaults(verb=build)


def run(options: argparse.Namespace) -> int:
    """Execute all notebooks."""
    from nitro_lab.workbook.run import run_workbook

    return 0 if run_workbook(options.notebooks, options.out, options.write, options.scale) else 1


def evaluate(options: argparse.Namespace) -> int:
    """Print the table of marks, and write it."""
    from nitro_lab.marks import compare_models, print_table, write_table

    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    columns = compare_models(
        options.model,
        steps=options.steps,
        unet=options.unet,
        shifted_timestep=options.shift,
        captions=options.captions,
        images=options.images,
        seed=options.seed,
    )
    print_table(columns, options.images)
    if options.json:
        write_table(columns, options.json)
        print(f"written to {options.json}")
    return 0


def build(options: argparse.Namespace) -> int:
    """Train, measure and write a model folder."""
    from nitro_lab.cards.report import build_and_report

    build_and_report(options.recipe, options.out, options.device, options.install)
    return 0


if __name__ == "__main__":
    sys.exit(main())
