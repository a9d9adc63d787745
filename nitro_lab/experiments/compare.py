"""Compare variants of a training at several random seeds: compare({"paper": {}, "mine": MyHead})."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, cast

import joblib
import numpy as np
import psutil
import torch
from diffusers.utils import logging as diffusers_logging
from einops import rearrange
from filelock import FileLock, Timeout
from PIL import Image
from platformdirs import user_cache_path
from transformers.utils import logging as transformers_logging

from nitro_lab.checkpoint import atomic_write, hash_of, pipeline_hashes, weights_hash
from nitro_lab.evaluation import eval_set as evaluation
from nitro_lab.integers import integer
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.models import load_pipeline
from nitro_lab.training.code_hash import library_hash
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.data import read_prompts, teacher_sampling
from nitro_lab.training.part_checks import check_parts
from nitro_lab.training.parts import Parts, Variant, apply_variant
from nitro_lab.training.run import TrainingRun
from nitro_lab.training.state import prepare_training

__all__ = ["BASE", "FOLDER", "PlannedRun", "Result", "Seeds", "Variant", "compare", "execute", "finish", "plan"]

Seeds = int | Sequence[int]
BASE = DistillConfig(checkpointing_steps=100)
FOLDER = Path("build/compare")
_GRID_IMAGES = 8


@dataclass(frozen=True)
class Result:
    """The outcome of one run.

    Attributes:
        key: hash of everything that the metrics depend on.
        settings: the same without this package's code.
        metrics: from `compute_metrics`, of the EMA student in one step; empty if the training failed.
        seconds: mean time of a step.
        num_parameters: of all heads.
        logit_gap: mean over the last quarter of the steps.
        failed: why the training stopped early; empty if it did not.
        reference: the first variant of the comparison.
        memory: MiB, peak of the GPU's tensors; without a GPU, of the process at the end of the training.
        captions, grid: a PNG with one row of samples, for the same captions and noise in every run.
    """

    variant: str
    seed: int
    steps: int
    num_images: int
    key: str
    settings: str
    metrics: dict[str, float]
    seconds: float
    num_parameters: int
    memory: float
    logit_gap: float
    captions: list[str]
    grid: Path
    failed: str = ""
    reference: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """A run that a comparison needs.

    Hashes: `settings` of everything that the metrics depend on except this package's code, `library` of this code,
    `key` of both. `folder` is where it is kept, `reference` the first variant.
    """

    variant: str
    config: DistillConfig
    parts: Parts
    num_images: int
    settings: str
    library: str
    key: str
    folder: Path
    reference: str = ""

    def find(self) -> Result | None:
        """The result, if it is on disk."""
        path = self.folder / "result.json"
        if not path.exists():
            return None
        try:
            return _result(self, json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}). Delete it to evaluate the run again.") from error


def compare(
    variants: Mapping[str, Variant],
    seeds: Seeds = 3,
    steps: int = 200,
    folder: Path = FOLDER,
    jobs: int | None = None,
    num_images: int = evaluation.NUM_IMAGES,
    config: DistillConfig = BASE,
) -> Iterator[Result]:
    """Train and evaluate each variant at each seed; yields results as runs finish, in any order.

    At one seed, all variants start from the same student and see the same data, noise and noise levels, so their
    differences can be taken seed by seed. Finished runs are found in `folder`, interrupted ones are resumed. The
    estimated cost is printed first. Runs are joblib tasks: `joblib.parallel_config(backend="dask")` uses a cluster.
    Raises a ValueError if a variant, a setting or a number is not allowed, before anything is trained.

    Args:
        variants: name -> head class, `Parts`, or dictionary of settings of `DistillConfig` and names of `Parts`; {}
            changes nothing. The first variant is the reference of `nitro_lab.experiments.summary.summarize`.
        seeds: how many, from 0, or which.
        jobs: runs at a time; by default one per GPU, or without a GPU one per CPU core.
        num_images: size of the evaluation set. config: settings that the variants change.
    """
    return execute(plan(variants, seeds, steps, folder, num_images, config), jobs)


def plan(
    variants: Mapping[str, Variant], seeds: Seeds, steps: int, folder: Path, num_images: int, config: DistillConfig
) -> list[PlannedRun]:
    """All runs of a comparison, seed by seed; arguments and errors as in `compare`."""
    seeds = range(integer("seeds", seeds)) if np.ndim(seeds) == 0 else list(cast(Sequence[int], seeds))
    folder = Path(folder)
    if not variants or not seeds or num_images < 10:
        given = f"variants is {variants!r}, seeds is {seeds!r}, num_images is {num_images}"
        raise ValueError(f"{given}; give variants such as {{'mine': MyHead}}, seeds, and 10 or more images.")
    changed = {name: _apply(name, variant, config) for name, variant in variants.items()}
    hashes, runs = cache(_model_hashes), []  # cached for this plan only: files may be replaced before the next
    library = library_hash()
    for seed in seeds:
        for name, (settings, parts) in changed.items():
            settings = replace(settings, seed=seed, max_train_steps=steps, separate_pool_rng=True)
            values = settings.key_settings() | {"max_train_steps": settings.max_train_steps, "num_images": num_images}
            values |= {"models": hashes(settings.teacher, settings.init_from), "parts": parts.code_hashes()}
            values["teacher_sampling"] = teacher_sampling(settings)
            digest = hash_of(values, read_prompts(settings))
            key, reference = hash_of({"settings": digest, "library": library}, []), next(iter(variants))
            run = PlannedRun(name, settings, parts, num_images, digest, library, key, folder / key, reference)
            runs.append(run)
    return runs


def execute(runs: Sequence[PlannedRun], jobs: int | None = None) -> Iterator[Result]:
    """Print the estimated cost; yield results that are on disk, then those of the other runs as they finish."""
    found = [result for run in runs if (result := run.find())]
    known = {result.key for result in found}
    missing = list({run.key: run for run in runs if run.key not in known}.values())  # variants may share a run
    if jobs == 0:
        raise ValueError("jobs is 0; give the number of runs at a time, -1 for all CPU cores, or None.")
    jobs = joblib.effective_n_jobs(jobs or torch.cuda.device_count() or joblib.cpu_count())
    jobs = max(1, min(jobs, len(missing)))  # joblib shares the cores among them
    if jobs == 1:
        _bind_gpu()
    for run in {run.variant: run for run in reversed(missing)}.values():
        _check(run)
    print(f"Runs on disk: {len(known)}. To train: {len(missing)}.", _estimate(missing, jobs) if missing else "")
    yield from found
    tasks = (joblib.delayed(finish)(run) for run in missing)
    for result in joblib.Parallel(jobs, batch_size=1, return_as="generator_unordered")(tasks):
        yield from (replace(result, variant=run.variant) for run in runs if run.key == result.key)


def _check(run: PlannedRun) -> None:
    """Refuse a variant whose settings or parts do not fit before anything is trained."""
    try:
        with TemporaryDirectory() as folder:
            check_parts(prepare_training(run.config, Path(folder), run.parts))
    except ValueError as error:
        raise ValueError(f"Variant {run.variant!r}: {error}") from error


def _apply(name: str, variant: Variant, config: DistillConfig) -> tuple[DistillConfig, Parts]:
    try:
        if isinstance(variant, Mapping) and variant.keys() & {"seed", "max_train_steps"}:
            raise ValueError("seed and max_train_steps are set by compare(seeds=..., steps=...).")
        return apply_variant(config, variant)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Variant {name!r}: {error}") from error


def _model_hashes(teacher: str, init_from: str) -> dict[str, str]:
    """Hashes of all models that a run and its evaluation use."""
    pipe, start = (load_pipeline(name, device="cpu", dtype=torch.float32) for name in (teacher, init_from))
    modules = {"vae": pipe.vae, "init_from": start.unet, "classifier": load_scene_classifier()}
    hashes = {name: weights_hash(module) for name, module in modules.items()}
    return pipeline_hashes(pipe) | hashes | {"student scheduler": start.scheduler.to_json_string()}


def _estimate(runs: Sequence[PlannedRun], jobs: int) -> str:
    """The time that runs will take, from a few steps of the first one and its evaluation, which are not kept."""
    steps = 1 + 2 * runs[0].config.student_update_freq
    config = replace(runs[0].config, max_train_steps=steps, checkpointing_steps=steps, disc_warmup_steps=0)
    with TemporaryDirectory() as folder:
        prepare_training(config, Path(folder), runs[0].parts)  # makes the teacher's samples, which all runs share
        _eval_set(config.teacher, runs[0].num_images)  # as are its images of the evaluation set
        start = perf_counter()
        trial = joblib.delayed(finish)(replace(runs[0], config=config, folder=Path(folder)))
        seconds = joblib.Parallel(jobs)([trial])[0].seconds
        overhead = max(0.0, perf_counter() - start - steps * seconds)
    minutes = -(-len(runs) // jobs) * (overhead + runs[0].config.max_train_steps * seconds) / 60
    return (
        f"Estimated time: {minutes:.1f} min, {jobs} at a time; a step of {runs[0].variant!r} takes {seconds:.2f} s, "
        f"the rest of a run {overhead:.0f} s. It can be interrupted and resumed at any time."
    )


def finish(run: PlannedRun) -> Result:
    """Train and evaluate a run, resume it, or load its result, in one process at a time."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # those of parallel processes would overwrite each other
    _bind_gpu()
    if library_hash() != run.library:
        raise ValueError("nitro_lab was patched, or edited since it was imported. Restart the kernel, or pass jobs=1.")
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / "result.lock"):
        return run.find() or _train_and_evaluate(run)


@cache
def _bind_gpu() -> FileLock | None:
    """Use the first GPU that no other process of a comparison has taken; with more processes than GPUs, all in turn.

    A process keeps it until it ends, since the evaluation set is there.
    """
    for place in count() if torch.cuda.is_available() else ():
        lock = FileLock(user_cache_path("nitro-lab", ensure_exists=True) / f"gpu-{place}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            torch.cuda.set_device(place % torch.cuda.device_count())
            return lock
    return None


def _train_and_evaluate(run: PlannedRun) -> Result:
    """Train until the last step or a NaN or infinity, then evaluate the student that the folder holds."""
    cuda, failed = torch.cuda.is_available(), ""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    training = TrainingRun(run.config, run.folder, run.parts)
    try:
        for _ in training.steps():
            pass
    except FloatingPointError as error:
        failed = str(error)
    reports, eval_set = training.table(), _eval_set(run.config.teacher, run.num_images)
    values = {
        "seed": run.config.seed,
        "steps": run.config.max_train_steps,
        "num_images": run.num_images,
        "key": run.key,
        "settings": run.settings,
        "seconds": reports["seconds"].tail(max(1, len(reports) - 1)).mean(),  # the first step is slow
        "num_parameters": training.state.pool.num_parameters,
        "memory": (torch.cuda.max_memory_allocated() if cuda else psutil.Process().memory_info().rss) / 2**20,
        "logit_gap": reports["logit_gap"].tail(max(1, run.config.max_train_steps // 4)).mean(),
        "captions": eval_set.prompts[:_GRID_IMAGES],
        "failed": failed,
        "metrics": {} if failed else _evaluate(run, eval_set),
    }
    atomic_write(run.folder / "result.json", lambda file: file.write_text(json.dumps(values, indent=2) + "\n"))
    (run.folder / "checkpoint.safetensors").unlink(missing_ok=True)  # large, and not needed any more
    return _result(run, values)


def _result(run: PlannedRun, values: dict[str, Any]) -> Result:
    return Result(variant=run.variant, reference=run.reference, grid=run.folder / "grid.png", **values)


@lru_cache(maxsize=1)
def _eval_set(teacher: str, num_images: int) -> evaluation.EvalSet:
    """The evaluation set, which all runs of a process share."""
    pipe = load_pipeline(teacher)
    eval_set = evaluation.make_eval_set(pipe, load_scene_classifier(pipe.device), num_images=num_images)
    return evaluation.with_teacher(eval_set, pipe)


def _evaluate(run: PlannedRun, eval_set: evaluation.EvalSet) -> dict[str, float]:
    """Metrics of the student in the run's folder; its first samples are written to grid.png."""
    pipe = load_pipeline(run.folder)
    images = evaluation.sample_eval_set(eval_set, pipe, 1)
    grid = rearrange(images[:_GRID_IMAGES].float().clamp(-1, 1) * 127.5 + 127.5, "n c h w -> h (n w) c")
    Image.fromarray(grid.round().byte().cpu().numpy()).save(run.folder / "grid.png")
    return evaluation.compute_metrics(eval_set, images)
