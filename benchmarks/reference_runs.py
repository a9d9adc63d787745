"""Record the runs that notebook 03 compares a run with, as docs/runs/NAME.csv (reports) and NAME.json (settings).

    python benchmarks/reference_runs.py --steps 200

An interrupted run is resumed.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from nitro_lab.training.config import DistillConfig
from nitro_lab.training.run import TrainingRun

TARGET = Path("docs/runs")
RUNS: dict[str, dict[str, Any]] = {  # settings that differ from the defaults; `workbook.reference_runs` describes them
    "healthy": {},
    "too-strong": {"student_update_freq": 20, "refresh_rate": 0.0},
    "learned-nothing": {"disc_learning_rate": 1e-7, "gan_loss": "non_saturating"},
    "no-refresh": {"refresh_rate": 0.0},
    "refresh-too-often": {"refresh_rate": 0.05},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=RUNS, metavar="NAME")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        run = TrainingRun(
            replace(DistillConfig(max_train_steps=options.steps), **RUNS[name]), Path("build/runs") / name
        )
        for _ in tqdm(run.steps(), desc=name, initial=run.step, total=options.steps):
            pass
        shutil.copyfile(run.folder / "reports.csv", TARGET / f"{name}.csv")
        shutil.copyfile(run.folder / "config.json", TARGET / f"{name}.json")


if __name__ == "__main__":
    main()
