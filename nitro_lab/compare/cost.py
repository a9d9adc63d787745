"""What a comparison will cost, before it starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import joblib
import torch

from nitro_lab.compare.planning import unfinished
from nitro_lab.compare.run import Run, finish
from nitro_lab.studio import prepare


@dataclass(frozen=True)
class Budget:
    """found, left: runs that are on disk, and that are not; jobs: of them side by side, with so many threads each.

    step: seconds of one; overhead: seconds that a run takes beside its steps: loading, saving, the exam.
    timed: the variant that was timed; nan and empty if nothing is left.
    """

    found: int
    left: int
    steps: int
    jobs: int
    threads: int
    step: float = float("nan")
    overhead: float = float("nan")
    timed: str = ""

    @property
    def seconds(self) -> float:
        """Until all is done, if every variant costs what the timed one does."""
        return -(-self.left // self.jobs) * (self.overhead + self.steps * self.step) if self.left else 0.0

    def __str__(self) -> str:
        have = f" ({self.found} found on disk)" if self.found else ""
        if not self.left:
            return f"No run is left{have}."
        runs = "1 run" if self.left == 1 else f"{self.left} runs"
        return (
            f"{runs} of {self.steps} steps left{have}: {clock(self.seconds)} here, {self.jobs} side by side with "
            f"{self.threads} thread(s) each; a step of {self.timed!r} took {self.step:.2f} s, all else "
            f"{self.overhead:.0f} s a run. To make it smaller: fewer seeds, steps, variants or images, or a smaller "
            "batch_size. It can be stopped at any time, and goes on from there."
        )


def estimate(runs: Sequence[Run], jobs: int | None = None) -> Budget:
    """Time a few steps of the first run that is left, and its exam; nothing of that is kept.

    The teacher's samples are made first if they are not there yet, since all runs share them.
    """
    left = list(unfinished(runs))
    found = len({run.key for run in runs}) - len(left)
    jobs, threads = share_cores(len(left), jobs)
    if not left:
        return Budget(found, 0, 0, jobs, threads)
    steps = left[0].config.steps
    every = left[0].config.student_every
    short = replace(left[0].config, steps=1 + 2 * every, warm_up=0, save_every=1 + 2 * every)
    with TemporaryDirectory() as folder:
        trial = replace(left[0], config=short, folder=Path(folder))
        prepare(short, trial.folder, trial.ideas)
        start = perf_counter()
        result = finish(trial, threads)
        overhead = max(0.0, perf_counter() - start - short.steps * result.seconds)
    return Budget(found, len(left), steps, jobs, threads, result.seconds, overhead, left[0].variant)


def share_cores(runs: int, jobs: int | None) -> tuple[int, int]:
    """Runs side by side, and threads of each: together no more than there are cores. One run a GPU where there are.

    Raises:
        ValueError: if jobs is 0.
    """
    cores = joblib.cpu_count()
    if jobs == 0:
        raise ValueError("jobs is 0; give how many runs go side by side, -1 for as many as there are, or None.")
    wanted = jobs or torch.cuda.device_count() or cores
    jobs = max(1, min(runs, wanted if wanted > 0 else cores))
    return jobs, max(1, min(torch.get_num_threads(), cores // jobs))


def clock(seconds: float) -> str:
    """A duration as people say it."""
    if math.isnan(seconds):
        return "nobody knows how long, since the trial failed,"
    minutes = round(seconds / 60)
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"about {max(1, minutes)} min"
