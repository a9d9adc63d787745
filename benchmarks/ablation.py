"""The paper's ablation with numbers: each part of the method, or one setting, is changed alone.

    python benchmarks/ablation.py --list
    python benchmarks/ablation.py --only full "no refresh" --seeds 0 1 2 3 4 --jobs 2

Runs are short and small, start from the same one-step student, and are kept in build/compare/. Each finished run is a
row of docs/ablation.csv; runs that are there, or on disk, are not made again, and several of these commands may run at
the same time. Means, intervals and differences from "full" are written to docs/ablation_means.csv, samples of the runs
of this machine to docs/ablation_grids.png. Without --only, the parts of the method are run; --list names all the rest.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for the tests

from study import Study

from nitro_lab.experiments.compare import BASE, Variant

CONFIG = replace(BASE, disc_warmup_steps=40, student_update_freq=1, batch_size=8)
PARTS: dict[str, Variant] = {
    "full": {},
    "no refresh": {"refresh_rate": 0.0},
    "no pool": {"heads_per_cell": 1, "sampled_heads_per_cell": 1, "refresh_rate": 0.0},
    "no local views": {"views": ("global_conditional",)},
    "no unconditional view": {"views": ("global_conditional", "local_conditional")},
    **{f"noise level {t} alone": {"t_star": (t,)} for t in (10, 250, 500, 750)},
    "linear": {"gan_loss": "linear"},
    "non-saturating": {"gan_loss": "non_saturating"},
    "1 of 4 heads sampled": {"sampled_heads_per_cell": 1},
    "refresh 10.0%": {"refresh_rate": 0.1},
}
FURTHER: dict[str, Variant] = {
    "as printed in the paper": {"gan_loss": "linear", "sampled_heads_per_cell": 1, "refresh_rate": 0.01},
    "2 of 4 heads sampled": {"sampled_heads_per_cell": 2},
    **{f"refresh {rate:.1%}": {"refresh_rate": rate} for rate in (0.003, 0.01, 0.03)},
    "refresh 1.0%, optimizer kept": {"refresh_rate": 0.01, "reset_optimizer_on_refresh": False},
    "pool of 1": {"heads_per_cell": 1, "sampled_heads_per_cell": 1},
    "pool of 16": {"heads_per_cell": 16, "sampled_heads_per_cell": 4},
    # not in the paper
    **{f"learning rate {rate:g}": {"learning_rate": rate} for rate in (1e-5, 1e-4)},
    **{f"D learning rate {rate:g}": {"disc_learning_rate": rate} for rate in (1e-3, 2e-2)},
    "two D steps per G step": {"student_update_freq": 2},
    "no warm-up": {"disc_warmup_steps": 0},
    "no EMA": {"ema_decay": 0.0},
    "narrow heads": {"head_width": 16},
    "crops of 12": {"crop_size": 12},
    "four crops": {"crops_per_image": 4},
}
STUDENTS = {f"shift {shift}": Path(f"build/shift/{shift}") for shift in (125, 500, 1000)}  # the shipped one's is 250
SHIFTED: dict[str, Variant] = {name: {"init_from": str(path)} for name, path in STUDENTS.items() if path.is_dir()}
STUDY = Study(Path("docs/ablation.csv"), PARTS | FURTHER | SHIFTED, CONFIG, 160, 512, "ablation.py")

if __name__ == "__main__":
    STUDY.main(__doc__, default=list(PARTS))
    if missing := " ".join(path.name for name, path in STUDENTS.items() if name not in SHIFTED):
        command = f"python -m benchmarks.shift_choice --shifts {missing} --steps 500 --pairs 2048 --out build/shift"
        print(f"The variants shift N need one-step students:\n{command}")
