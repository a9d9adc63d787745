"""Compare variants of a training at several random seeds: compare({"paper": {}, "mine": MyHead})."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import joblib
import psutil
import torch
from diffusers.utils import logging as diffusers_logging
from einops import rearrange
from filelock import FileLock
from PIL import Image
from transformers.utils import logging as transformers_logging

from nitro_lab.checkpoint import atomic_write, hash_of, pipeline_hashes, weights_hash
from nitro_lab.evaluation.eval_set import EvalSet, compute_metrics, make_eval_set, sample_eval_set
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.models import load_pipeline
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.data import read_prompts
from nitro_lab.training.parts import HeadFactory, Parts
from nitro_lab.training.run import TrainingRun
from nitro_lab.training.state import prepare_training

__all__ = ["BASE", "FOLDER", "PlannedRun", "Result", "Seeds", "Variant", "compare", "execute", "finish", "plan"]

Variant = HeadFactory | Parts | Mapping[str, Any]
Seeds = int | Sequence[int]
BASE = DistillConfig(checkpointing_steps=100)
FOLDER = Path("build/compare")
_GRID_IMAGES = 8


@dataclass(frozen=True)
class Result:
    """The outcome of one run.

    Attributes:
        key: hash of everything that the metrics depend on.
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
    """A run that a comparison needs; `folder` is where it is kept, `reference` the first variant."""

    variant: str
    config: DistillConfig
    parts: Parts
    num_images: int
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
    num_images: int = 256,
    config: DistillConfig = BASE,
) -> Iterator[Result]:
    """Train and evaluate each variant at each seed; yields results as runs finish, in any order.

    At one seed, all variants start from the same student and see the same data, noise and noise levels, so their
    differences can be taken seed by seed. Finished runs are found in `folder`, interrupted ones are resumed. The
    estimated cost is printed first. Runs are joblib tasks: `joblib.parallel_config(backend="dask")` uses a cluster.

    Args:
        variants: name -> head class, `Parts`, or dictionary of settings of `DistillConfig` and names of `Parts`; {}
            changes nothing. The first variant is the reference of `nitro_lab.experiments.summary.summarize`.
        seeds: how many, from 0, or which.
        jobs: runs at a time; by default one per GPU, or without a GPU one per CPU core.
        num_images: size of the evaluation set. config: settings that the variants change.

    Raises:
        ValueError: at once, if a variant, a setting or a number is not allowed.
    """
    return execute(plan(variants, seeds, steps, folder, num_images, config), jobs)


def plan(
    variants: Mapping[str, Variant], seeds: Seeds, steps: int, folder: Path, num_images: int, config: DistillConfig
) -> list[PlannedRun]:
    """All runs of a comparison, seed by seed; arguments and errors as in `compare`."""
    seeds, folder = range(seeds) if isinstance(seeds, int) else seeds, Path(folder)
    if not variants or not seeds or num_images < 10:
        raise ValueError(
            f"variants is {variants!r}, seeds is {seeds!r}, num_images is {num_images}; give one or more variants, "
            "such as {'paper': {}, 'mine': MyHead}, one or more seeds, and 10 or more images."
        )
    changed = {name: _apply(name, variant, config) for name, variant in variants.items()}
    hashes, runs = cache(_model_hashes), []  # cached for this plan only: files may be replaced before the next
    for seed in seeds:
        for name, (settings, parts) in changed.items():
            settings = replace(settings, seed=seed, max_train_steps=steps, separate_pool_rng=True)
            key = _key(settings, parts, num_images, hashes(settings.teacher, settings.init_from))
            runs.append(PlannedRun(name, settings, parts, num_images, key, folder / key, next(iter(variants))))
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
    print(f"Runs on disk: {len(known)}. To train: {len(missing)}.", _estimate(missing, jobs) if missing else "")
    yield from found
    tasks = (joblib.delayed(finish)(run, index) for index, run in enumerate(missing))
    for result in joblib.Parallel(jobs, batch_size=1, return_as="generator_unordered")(tasks):
        yield from (replace(result, variant=run.variant) for run in runs if run.key == result.key)


def _apply(name: str, variant: Variant, config: DistillConfig) -> tuple[DistillConfig, Parts]:
    """Settings and parts of a variant. Views and losses can be given as names, which are settings, or as parts."""
    try:
        if isinstance(variant, Parts):
            return config, variant
        if not isinstance(variant, Mapping):
            return config, Parts(head=variant)
        if variant.keys() & {"seed", "max_train_steps"}:
            raise ValueError("seed and max_train_steps are set by compare(seeds=..., steps=...).")
        values: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in variant.items()}
        names = [f.name for f in fields(Parts) if not isinstance(values.get(f.name), (str, tuple))]
        parts = {name: values.pop(name, None) for name in names}
        return replace(config, **values), Parts(**parts)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Variant {name!r}: {error}") from error


def _key(config: DistillConfig, parts: Parts, num_images: int, models: Mapping[str, str]) -> str:
    """A hash of everything that the metrics depend on, except this package's code and the machine."""
    others = {"max_train_steps": config.max_train_steps, "num_images": num_images, "models": models}
    return hash_of(config.key_settings() | others | {"parts": parts.code_hashes()}, read_prompts(config))


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
        start = perf_counter()
        trial = joblib.delayed(finish)(replace(runs[0], config=config, folder=Path(folder)))
        seconds = joblib.Parallel(jobs)([trial])[0].seconds
        overhead = max(0.0, perf_counter() - start - steps * seconds)
    minutes = -(-len(runs) // jobs) * (overhead + runs[0].config.max_train_steps * seconds) / 60
    return (
        f"Estimated time: {minutes:.1f} min, {jobs} at a time; a step of {runs[0].variant!r} takes {seconds:.2f} s, "
        f"the rest of a run {overhead:.0f} s. It can be interrupted and resumed at any time."
    )


def finish(run: PlannedRun, index: int = 0) -> Result:
    """Train and evaluate a run, resume it, or load its result, in one process at a time; `index` selects the GPU."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # those of parallel processes would overwrite each other
    if torch.cuda.is_available():
        torch.cuda.set_device(index % torch.cuda.device_count())
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / "result.lock"):
        return run.find() or _train_and_evaluate(run)


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
    """The result of a run from the values in its result.json."""
    return Result(variant=run.variant, reference=run.reference, grid=run.folder / "grid.png", **values)


@lru_cache(maxsize=1)
def _eval_set(teacher: str, num_images: int) -> EvalSet:
    """The evaluation set, which all runs of a process share."""
    pipe = load_pipeline(teacher)
    return make_eval_set(pipe, load_scene_classifier(pipe.device), num_images=num_images)


def _evaluate(run: PlannedRun, eval_set: EvalSet) -> dict[str, float]:
    """Metrics of the student in the run's folder; its first samples are written to grid.png."""
    pipe = load_pipeline(run.config.init_from, unet=run.folder / "student.safetensors")
    images = sample_eval_set(eval_set, pipe, 1)
    grid = rearrange(images[:_GRID_IMAGES].float().clamp(-1, 1) * 127.5 + 127.5, "n c h w -> h (n w) c")
    Image.fromarray(grid.round().byte().cpu().numpy()).save(run.folder / "grid.png")
    return compute_metrics(eval_set, images)
