"""The zoo's discriminators, trained on equal terms: docs/leaderboard.csv, a row per run.

    python benchmarks/leaderboard.py --list
    python benchmarks/leaderboard.py --only NitroFusion LADD --seeds 0 1 2 3 4 --jobs 2
    python benchmarks/leaderboard.py --measure
    python benchmarks/leaderboard.py --equal-seconds

All start from the same one-step student and train it for the same number of steps; with --equal-seconds, for as many
steps as take the reference's time (docs/leaderboard_seconds.csv). What a step takes is measured by --measure, in turn
and in one process, since the runs of the first table were not alone on their machine (docs/step_seconds.json).
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm.auto import tqdm

sys.path.append(str(Path(__file__).parent))  # for the tests

from study import Study

from nitro_lab.discriminators.zoo import ZOO
from nitro_lab.experiments.compare import BASE
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.parts import Parts, apply_variant
from nitro_lab.training.state import prepare_training
from nitro_lab.training.step import training_step

# The paper's refresh rate, and one head of each cell per step, as in its figure
CONFIG = replace(
    BASE, disc_warmup_steps=40, student_update_freq=1, batch_size=8, sampled_heads_per_cell=1, refresh_rate=0.01
)
VARIANTS = ZOO | {
    "NitroFusion, all heads, refresh 0.1%": {"sampled_heads_per_cell": 4, "refresh_rate": 0.001},
    "NitroFusion, same noise": {"pairing": "same_noise"},
}
STEPS = 300
STUDY = Study(Path("docs/leaderboard.csv"), VARIANTS, CONFIG, STEPS, num_images=512, command="leaderboard.py")


SECONDS = Path("docs/step_seconds.json")


def measure(rounds: int = 9) -> None:
    """Time a training step of each variant, in turn, and write the medians."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with TemporaryDirectory() as folder:
        config = replace(CONFIG, disc_warmup_steps=0)
        states = {name: prepare_training(*_changed(config, name, folder)) for name in VARIANTS}
        for step in tqdm(range(rounds + 1), desc="rounds"):
            for name, state in states.items():
                report = training_step(state, step)
                if step > 0:
                    seconds[name].append(report.seconds)
    medians = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    SECONDS.write_text(json.dumps(medians, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _changed(config: DistillConfig, name: str, folder: str) -> tuple[DistillConfig, Path, Parts]:
    changed, parts = apply_variant(config, VARIANTS[name])
    return changed, Path(folder), parts


def equal_seconds() -> Study:
    """The same with as many steps as take the reference's time."""
    if not SECONDS.exists():
        raise SystemExit(f"There is no {SECONDS}; run benchmarks/leaderboard.py --measure on a quiet machine first.")
    seconds = json.loads(SECONDS.read_text(encoding="utf-8"))
    steps = {name: round(STEPS * seconds[STUDY.reference] / seconds[name]) for name in VARIANTS}
    table, command = Path("docs/leaderboard_seconds.csv"), f"{STUDY.command} --equal-seconds"
    return replace(STUDY, table=table, steps=steps, command=command)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--equal-seconds", action="store_true")
    parser.add_argument("--measure", action="store_true")
    options, others = parser.parse_known_args()
    if options.measure:
        measure()
    else:
        (equal_seconds() if options.equal_seconds else STUDY).main(__doc__, arguments=others)
