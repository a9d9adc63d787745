"""The zoo's discriminators, trained on equal terms: docs/leaderboard.csv, a row per run.

    python benchmarks/leaderboard.py --list
    python benchmarks/leaderboard.py --only NitroFusion LADD --seeds 0 1 2 3 4 --jobs 2
    python benchmarks/leaderboard.py --equal-seconds

All start from the same one-step student and train it for the same number of steps; with --equal-seconds, for as many
steps as take the reference's time, by the mean seconds per step in the first table (docs/leaderboard_seconds.csv).
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for the tests

from study import Study

from nitro_lab.discriminators.zoo import ZOO
from nitro_lab.experiments.compare import BASE

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


def equal_seconds() -> Study:
    """The same with as many steps as take the reference's time, of the variants that the first table has."""
    seconds = STUDY.rows().groupby("variant")["seconds"].mean()
    steps = {name: round(STEPS * seconds[STUDY.reference] / seconds[name]) for name in VARIANTS if name in seconds}
    variants = {name: VARIANTS[name] for name in steps}
    table, command = Path("docs/leaderboard_seconds.csv"), f"{STUDY.command} --equal-seconds"
    return replace(STUDY, table=table, variants=variants, steps=steps, command=command)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--equal-seconds", action="store_true")
    options, others = parser.parse_known_args()
    (equal_seconds() if options.equal_seconds else STUDY).main(__doc__, arguments=others)
