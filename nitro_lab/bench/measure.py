"""What the pool of critics costs: ratios of two ways to do one thing, and where the time of a step goes."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.state import AcceleratorState
from tqdm.auto import tqdm

from nitro_lab.bench.critics import critics_cost, panel_cost, pool_size, step_cost
from nitro_lab.bench.heads import head_cost
from nitro_lab.bench.parts import Split, split_step
from nitro_lab.bench.ratio import Comparison, Ratio
from nitro_lab.distill_config import DistillConfig
from nitro_lab.example_heads import EXAMPLES
from nitro_lab.provenance import commit, hardware
from nitro_lab.studio import Training, prepare

# what the pictures show does not change the time; both sides learn in every step
CONFIG = DistillConfig(reals=64, captions=64, teacher_steps=1, warm_up=0, student_every=1)
POOLS = {"pool size ×10": 10, "pool size": 100}  # times as many heads as the config says


@dataclass(frozen=True)
class Findings:
    """What was measured, on one device or on several, and where."""

    ratios: list[Ratio]
    splits: list[Split]
    torch: str
    hardware: dict[str, str]
    commit: str


def measure(
    device: str | None = None, rounds: int = 15, config: DistillConfig = CONFIG, pools: dict[str, int] | None = None
) -> Findings:
    """Time all comparisons.

    Args:
        device: "cpu" or "cuda"; by default the CPU, and CUDA too where it is there.
        rounds: timings of each side; their median counts.
        pools: names of comparisons -> how many times larger the large pool is than the small one.

    Raises:
        ValueError: if there is no such device, or rounds is less than 1.
    """
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if device not in (None, *devices):
        raise ValueError(f"device is {device!r}; here it can be {' or '.join(devices)}.")
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; it must be at least 1.")
    chosen = [device] if device else devices
    measured = [measure_on(name, rounds, config, POOLS if pools is None else pools) for name in chosen]
    ratios, splits = ([row for rows in kind for row in rows] for kind in zip(*measured, strict=True))
    threads = f", torch threads: {torch.get_num_threads()}"
    where = {name: hardware(torch.device(name)) + (threads if name == "cpu" else "") for name in chosen}
    return Findings(ratios, splits, torch.__version__, where, commit())


def measure_on(
    device: str, rounds: int, config: DistillConfig, pools: dict[str, int]
) -> tuple[list[Ratio], list[Split]]:
    """Time all comparisons on one device."""
    with on_device(device), TemporaryDirectory() as folder:
        training = prepare(config, Path(folder))
        panels = sorted({1, config.per_cell})  # heads a cell: as the paper's figure draws, and as the config says
        makers: list[Callable[[Training], Comparison]] = [
            *(partial(critics_cost, per_cell=heads) for heads in panels),
            *(partial(pool_size, name=name, many=many) for name, many in pools.items()),
            panel_cost,
            step_cost,
            *(partial(head_cost, name=name) for name in EXAMPLES),
        ]
        ratios = [make(training).time(rounds) for make in tqdm(makers, desc=f"bench on {device}", leave=False)]
        splits = [split_step(training, rounds, heads) for heads in panels]
    placed = [replace(ratio, device=device) for ratio in [*ratios, *(split.ratio for split in splits)]]
    return placed, [replace(split, ratio=ratio) for split, ratio in zip(splits, placed[len(ratios) :], strict=True)]


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Let accelerate use the CPU where it would take a GPU; it remembers the first device that it was given."""
    before = os.environ.get("ACCELERATE_USE_CPU")
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_USE_CPU"] = str(device == "cpu")
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.pop("ACCELERATE_USE_CPU")
        if before is not None:
            os.environ["ACCELERATE_USE_CPU"] = before


def print_findings(findings: Findings) -> None:
    """Two lines a comparison, the second one saying what stands above and below the fraction's line; then the parts."""
    print(f"{'ratio':>7}  {'goal':16}{'ours':>9}  {'theirs':>9}")
    for row in findings.ratios:
        seconds = "  ".join(f"{1e3 * value:6.0f} ms" for value in (row.our_seconds, row.their_seconds))
        print(f"{row.ratio:7.3f}  {told_goal(row):16}{seconds}  {row.name} ({row.device})")
        print(f"         {row.ours} over {row.theirs}")
    for split in findings.splits:
        print(told_split(split))


def told_goal(row: Ratio) -> str:
    """The goal, and whether it was reached."""
    return row.verdict if row.goal is None else f"≤ {row.goal:.2f} {row.verdict}"


def told_split(split: Split) -> str:
    """Where the time of a step goes, in one line."""
    parts = [f"{name} {1e3 * seconds:.0f}" for name, seconds in [*split.parts.items(), ("left over", split.left_over)]]
    return f"{split.ratio.ours} ({split.ratio.device}), {1e3 * split.step:.0f} ms: {', '.join(parts)}"


def write_findings(findings: Findings, path: Path) -> None:
    """The same as JSON, with what it was measured on; names of further devices' rows end with the device."""
    first = next(iter(findings.hardware))
    data = {
        "torch": findings.torch,
        "hardware": "; ".join(findings.hardware.values()),
        "commit": findings.commit,
        "ratios": {name_on(row, first): asdict(row) | {"ratio": row.ratio} for row in findings.ratios},
        "splits": {
            name_on(split.ratio, first): {"step": split.step, **split.parts, "left over": split.left_over}
            for split in findings.splits
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def name_on(row: Ratio, first: str) -> str:
    """A row's name, which has to be its own among all devices."""
    return row.name if row.device == first else f"{row.name}, {row.device}"
