"""Record the runs that notebook 03 compares one's own with: a healthy one, and four with one thing wrong on purpose.

    python benchmarks/reference_runs.py --steps 200

Each goes on where it was cut, and ends as docs/runs/NAME.csv (its reports) and NAME.json (its settings).
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from nitro_lab.distill_config import DistillConfig
from nitro_lab.runs.folder import run
from nitro_lab.studies.reference_runs import RUNS

TARGET = Path("docs/runs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=RUNS, metavar="NAME")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        config = replace(DistillConfig(steps=options.steps), **RUNS[name][0])
        folder = Path("build/references") / name
        for _ in tqdm(run(config, folder), total=options.steps, desc=name):
            pass
        shutil.copyfile(folder / "reports.csv", TARGET / f"{name}.csv")
        shutil.copyfile(folder / "config.json", TARGET / f"{name}.json")


if __name__ == "__main__":
    main()
