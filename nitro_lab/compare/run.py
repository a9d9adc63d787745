"""One run of a comparison: trained in a folder of its own, examined, and kept as a small JSON file beside its grid.

result.json    marks, time, memory; there as soon as the run is finished
grid.png       the first pictures of the exam: the same noise and captions for every run
student.safetensors, reports.csv, curves.png, ...: see `nitro_lab.runs.folder`; the checkpoint goes when the run is done
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean

import torch
from diffusers.utils import logging as diffusers_logging
from diffusers.utils import make_image_grid
from filelock import FileLock
from transformers.utils import logging as transformers_logging

from nitro_lab.checkpoints import load_pipeline
from nitro_lab.compare.peak_memory import forget_peak, peak_memory
from nitro_lab.distill_config import DistillConfig
from nitro_lab.exam import Exam, mark, set_exam, sit
from nitro_lab.ideas import Ideas
from nitro_lab.mini.judge import load_judge
from nitro_lab.plots.canvas import enlarge, to_pil
from nitro_lab.provenance import hardware, stamp
from nitro_lab.runs.folder import only_one, read_reports, train_in
from nitro_lab.snapshots import replace_file
from nitro_lab.studio import Training, prepare

GRID_PICTURES = 8  # pictures of a grid
PIXELS = 128  # a side of each


@dataclass(frozen=True)
class Result:
    """What came of one run.

    marks: of `nitro_lab.exam.mark`, of the averaged student in one step; none if the run failed.
    seconds: mean of a step; parameters: numbers in all heads of the pool; memory: peak in MiB while it trained, see
    `nitro_lab.compare.peak_memory`; margin: mean over the last quarter of the steps; failed: why it ended early, else
    empty.
    grid: a PNG of the same captions and noise for every run.
    """

    variant: str
    seed: int
    steps: int
    images: int
    key: str
    marks: dict[str, float]
    seconds: float
    parameters: int
    memory: float
    margin: float
    hardware: str
    commit: str
    captions: list[str]
    grid: Path
    failed: str = ""


@dataclass(frozen=True)
class Run:
    """One run that is asked for. key: a hash of everything that its marks depend on; folder: where it is kept."""

    variant: str
    config: DistillConfig
    images: int
    key: str
    folder: Path
    ideas: Ideas = field(default_factory=Ideas)

    def found(self) -> Result | None:
        """Its result, if it is on disk.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.folder / "result.json"
        if not path.exists():
            return None
        try:
            return Result(variant=self.variant, grid=self.folder / "grid.png", **json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}). Delete it; the run is then examined again.") from error


def finish(run: Run, threads: int = 1, place: int = 0) -> Result:
    """Train and examine a run, or go on with it, or find it finished; in whatever process.

    A second process that wants the same run waits for the first, and then finds it.

    Args:
        threads: of torch.
        place: of the run among all; it chooses the GPU where there are several.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / "result.lock"), few_threads(threads), no_loading_bars():
        if torch.cuda.is_available():
            torch.cuda.set_device(place % torch.cuda.device_count())
        return run.found() or train_and_examine(run)


@contextmanager
def few_threads(threads: int) -> Iterator[None]:
    """Keep torch to its share of the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Several processes would write their bars over each other, run after run."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in (diffusers_logging, transformers_logging):
            library.enable_progress_bar()


def train_and_examine(run: Run) -> Result:
    """Train to the end, or until a number is none; then look at what the student draws."""
    forget_peak()
    training = prepare(run.config, run.folder, run.ideas)
    failed = train_to_the_end(training, run.folder)
    memory = peak_memory()
    reports = read_reports(run.folder)
    last_quarter = reports["margin"][-max(1, run.config.steps // 4) :]
    exam = shared_exam(run.config.teacher, run.images)
    result = Result(
        variant=run.variant,
        seed=run.config.seed,
        steps=run.config.steps,
        images=run.images,
        key=run.key,
        marks={} if failed else examine(run, exam),
        seconds=fmean(reports["seconds"][1:] or reports["seconds"] or [float("nan")]),  # the first step warms up
        parameters=sum(training.pool.state(level)[0].numel() for level in range(training.pool.shape[2])),
        memory=memory,
        margin=fmean(last_quarter) if last_quarter else float("nan"),
        hardware=hardware(training.accelerator.device),
        commit=stamp(run.folder),
        captions=exam.prompts[:GRID_PICTURES],
        grid=run.folder / "grid.png",
        failed=failed,
    )
    write(result, run.folder)
    return result


def train_to_the_end(training: Training, folder: Path) -> str:
    """Returns why it could not, or nothing: that an objective has no bound is a finding too."""
    stamp(folder)
    try:
        with only_one(folder):
            for _ in train_in(training, folder):
                pass
    except FloatingPointError as error:
        return str(error).partition(" Nothing was")[0]
    return ""


@lru_cache(maxsize=1)
def shared_exam(teacher: str, images: int) -> Exam:
    """The exam is the same for all runs, so a process sets it once."""
    pipe = load_pipeline(teacher)
    return set_exam(pipe, load_judge(pipe.device), images=images)


def examine(run: Run, exam: Exam) -> dict[str, float]:
    """Marks of the student that the folder keeps, and its grid."""
    pipe = load_pipeline(run.config.student, unet=run.folder / "student.safetensors")
    pictures = sit(exam, pipe, 1)
    first = [enlarge(picture, PIXELS) for picture in to_pil(pictures[:GRID_PICTURES])]
    make_image_grid(first, rows=1, cols=len(first)).save(run.folder / "grid.png")
    return mark(exam, pictures)


def write(result: Result, folder: Path) -> None:
    """Keep what the folder's name and the caller do not say, and let the large checkpoint go."""
    told = asdict(replace(result, grid=Path())) | {"variant": None, "grid": None}
    text = json.dumps({name: value for name, value in told.items() if value is not None}, indent=2)
    replace_file(folder / "result.json", lambda file: file.write_text(text + "\n"))
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
