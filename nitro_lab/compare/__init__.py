"""An idea in ten lines, an answer with error bars: the same training, variant by variant and seed by seed.

class MyHead(nn.Module): ...

results = list(compare({"full": {}, "mine": MyHead, "mine, no refresh": {"head": MyHead, "refresh": 0.0}}))
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from joblib import Parallel, delayed

from nitro_lab.compare.cost import Budget, estimate, share_cores
from nitro_lab.compare.planning import BASE, Change, plan, unfinished
from nitro_lab.compare.run import Result, Run, finish
from nitro_lab.distill_config import DistillConfig

FOLDER = Path("build/compare")
STEPS = 200
IMAGES = 256


def compare(
    changes: Mapping[str, Change],
    seeds: int | Sequence[int] = 3,
    steps: int = STEPS,
    folder: Path = FOLDER,
    jobs: int | None = None,
    images: int = IMAGES,
    config: DistillConfig = BASE,
) -> Iterator[Result]:
    """Train and examine every variant at every seed; a result as soon as a run is finished, in whatever order.

    All variants start from the same soft student and see the same data, noise, and noise levels in the same order, so
    differences can be taken seed by seed. What is on disk is not run twice, and what was cut goes on: runs are kept in
    `folder` under a hash of everything that their marks depend on, except the library's own code and the machine.
    First it says, in one printed line, what it will cost.

    Runs go side by side through joblib: it brings classes that a notebook's cell defined to other processes, it hands
    out results as they come, and the same call runs on a cluster of Dask:

        with joblib.parallel_config(backend="dask"):
            for result in compare(changes, jobs=40, folder=Path("/a/folder/that/all/machines/see")): ...

    (Ray's backend for joblib gives results only all at once, which `return_as` refuses.)

    Args:
        changes: what each variant changes: a head's class, an `Ideas`, or a dictionary of settings of `DistillConfig`
            and names of ideas, {} for none. The first one is the reference of the table.
        seeds: how many, from 0, or which.
        steps: of each run.
        jobs: runs at the same time; by default one a GPU, or else one a core.
        images: of each exam.
        config: what is changed.

    Raises:
        ValueError: at once, if a change, a setting or a number cannot be.
    """
    return carry_out(plan(changes, seeds, steps, folder, images, config), jobs)


def carry_out(runs: Sequence[Run], jobs: int | None = None) -> Iterator[Result]:
    """Say what it costs; then results of the runs that are on disk, and of the others as they are finished."""
    print(estimate(runs, jobs), flush=True)
    left = list(unfinished(runs))
    for run in runs:
        result = run.found()
        if result:
            yield result
    waiting = {run.key: [other.variant for other in runs if other.key == run.key] for run in left}
    jobs, threads = share_cores(len(left), jobs)
    work = (delayed(finish)(run, threads, place) for place, run in enumerate(left))
    for result in Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")(work):
        for variant in waiting[result.key]:  # two names may mean the same
            yield replace(result, variant=variant)


def budget(
    changes: Mapping[str, Change],
    seeds: int | Sequence[int] = 3,
    steps: int = STEPS,
    folder: Path = FOLDER,
    jobs: int | None = None,
    images: int = IMAGES,
    config: DistillConfig = BASE,
) -> Budget:
    """What `compare` with the same arguments would cost on this machine, from a timing of a few steps; print it."""
    return estimate(plan(changes, seeds, steps, folder, images, config), jobs)
