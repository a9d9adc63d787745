"""What the pool of discriminator heads costs: ratios of two ways to do the same, timed in turn within one run.

    python benchmarks/pool.py --rounds 9 --json docs/bench.json

Ratios are comparable on a busy machine, seconds are not. Below 1, the first way is faster.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from accelerate.state import AcceleratorState
from baselines import MeanPool, ModuleListPool, list_update, pool_update, usual_step
from tqdm.auto import tqdm

from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.inputs import bind_text_dim
from nitro_lab.discriminators.pool import DiscriminatorPool
from nitro_lab.discriminators.zoo import IDEAS, ZOO
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.parts import HeadFactory, Parts, apply_variant
from nitro_lab.training.state import TrainState, prepare_training
from nitro_lab.training.step import sample_features, training_step

# what the images show does not change the time; heads and student are updated in every step
CONFIG = DistillConfig(
    num_real_samples=64, num_prompts=64, teacher_num_inference_steps=1, disc_warmup_steps=0, student_update_freq=1
)
POOLS = {"pool size ×10": 10, "pool size": 100}  # how many times larger than the settings' pool
NARROW = 8  # channels; 48,000 heads of the paper's width would take 20 GB with their optimizer states
PARTS = ("student", "backbone", "heads", "optimizers", "rest")
Work = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """A comparison: what was timed, the reference, their median seconds, and the largest ratio that is a success."""

    name: str
    measured: str
    reference: str
    seconds: float
    reference_seconds: float
    goal: float | None
    device: str = "cpu"

    @property
    def ratio(self) -> float:
        """Seconds over the reference's."""
        return self.seconds / self.reference_seconds

    def __str__(self) -> str:
        """Two lines for the terminal."""
        goal = "" if self.goal is None else f"≤ {self.goal:.2f} {'reached' if self.ratio <= self.goal else 'missed'}"
        times = f"{1e3 * self.seconds:6.0f} ms {1e3 * self.reference_seconds:6.0f} ms  {self.name} ({self.device})"
        return f"{self.ratio:7.3f}  {goal:15} {times}\n         {self.measured} over {self.reference}"


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same, ready to be timed."""

    name: str
    measured: str
    reference: str
    goal: float | None
    work: Work
    reference_work: Work

    def time(self, rounds: int, device: str = "cpu") -> Ratio:
        """Run both once to warm up and then in turn; which one is first changes from round to round."""
        works = (self.work, self.reference_work)
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds + 1):
            for side in (0, 1) if turn % 2 else (1, 0):
                start = _now()
                works[side]()
                if turn > 0:
                    seconds[side].append(_now() - start)
        medians = map(statistics.median, seconds)
        return Ratio(self.name, self.measured, self.reference, *medians, self.goal, device)


def comparisons(state: TrainState, pools: Mapping[str, int], zoo: Mapping[str, Any]) -> Iterator[Comparison]:
    """All comparisons of a training."""
    for heads in sorted({1, state.config.sampled_heads_per_cell}):
        sampling = with_settings(state, sampled_heads_per_cell=heads)
        free = replace(sampling, pool=cast(DiscriminatorPool, MeanPool(state)))
        reference = "the same step with the mean of the features in place of the heads"
        measured = f"training step, {describe(sampling)}"
        yield Comparison(f"heads ×{heads}", measured, reference, 1.15, steps(sampling), steps(free))
    for name, times in pools.items():
        small, large = (with_narrow_pool(state, factor) for factor in (1, times))
        measured = f"training step, {describe(large)}, {NARROW} channels wide"
        reference = f"the same step, {describe(small)}"
        yield Comparison(name, measured, reference, 1.05, steps(large), steps(small))
    real, fake = sample_features(state, state.config.t_star[0])
    modules = ModuleListPool(state)
    measured = f"score and update heads together, {describe(state)}"
    reference = "the same in a loop over nn.ModuleList, one AdamW over the whole pool"
    works = partial(pool_update, state, real, fake), partial(list_update, modules, state, real, fake)
    yield Comparison("panel", measured, reference, 0.5 if state.accelerator.device.type == "cuda" else 0.8, *works)
    reference = "the usual GAN step: new fakes and features for each of the two losses, heads as in `panel`"
    works = steps(state), partial(usual_step, modules, state)
    yield Comparison("step", f"training step, {describe(state)}", reference, 0.65, *works)
    for name, variant in zoo.items():
        yield compare_variant(state, name, variant)


def compare_variant(state: TrainState, name: str, variant: Any) -> Comparison:
    """An entry of the zoo: heads as a panel; with settings of its own, the whole step."""
    config, parts = apply_variant(state.config, variant)
    if parts != Parts(head=parts.head) or config != state.config:
        other = prepare_training(config, state.checkpoint.path.parent, parts)
        measured, reference = (f"training step, {describe(each)}" for each in (other, state))
        return Comparison(f"head: {name}", measured, reference, None, steps(other), steps(state))
    real, fake = sample_features(state, state.config.t_star[0])
    own, paper = (with_panel_pool(state, maker, real) for maker in (parts.head, None))
    works = [partial(pool_update, each, real, fake) for each in (own, paper)]
    return Comparison(
        f"head: {name}", f"score and update, {describe(own)}", "the same with the paper's head", None, *works
    )


def with_settings(state: TrainState, **settings: Any) -> TrainState:
    """The same training with other settings."""
    return replace(state, config=replace(state.config, **settings))


def with_narrow_pool(state: TrainState, times: int) -> TrainState:
    """The same training with a pool of narrow heads, so many times larger, of which as many are refreshed."""
    config, (noise_levels, views, _, n) = state.config, state.pool.shape
    channels = [state.backbone.channels[index] for index in state.feature_indices]
    head = partial(ConvHead, width=NARROW)
    device = state.accelerator.device
    pool = DiscriminatorPool(head, channels, state.generator, noise_levels, views, n * times, device=device)
    changed = with_settings(state, heads_per_cell=n * times, refresh_rate=config.refresh_rate / times)
    return replace(changed, pool=pool)


def with_panel_pool(state: TrainState, head: HeadFactory | None, views: list) -> TrainState:
    """The same training with a pool of one noise level and no more heads than a step samples."""
    pool = DiscriminatorPool(
        bind_text_dim(head or Parts().make_head(state.config), views[0].pooled_prompt_embeds.shape[1]),
        [feature.shape[1] for feature in views[0].maps],
        torch.Generator().manual_seed(0),
        noise_levels=1,
        views=len(views),
        heads_per_cell=state.config.sampled_heads_per_cell,
        device=state.accelerator.device,
    )
    return replace(with_settings(state, t_star=state.config.t_star[:1]), pool=pool)


def describe(state: TrainState) -> str:
    """Number of sampled heads and of all heads."""
    noise_levels, views, levels, heads_per_cell = state.pool.shape
    sampled = views * levels * state.config.sampled_heads_per_cell
    return f"{sampled:,} head{'s' * (sampled > 1)} of a pool of {noise_levels * views * levels * heads_per_cell:,}"


def steps(state: TrainState) -> Work:
    """Training steps, one per call."""
    numbers = count()
    return lambda: training_step(state, next(numbers))


def time_parts(state: TrainState, rounds: int) -> dict[str, float]:
    """Median seconds of each of `PARTS` in a training step, forward and backward, by hooks.

    "student" includes the clipping of its gradient, "rest" the EMA.
    """
    seconds: Counter[str] = Counter()
    now = {"part": "rest", "since": _now()}

    def switch(part: str) -> None:
        seconds[now["part"]] += _now() - now["since"]
        now.update(part=part, since=_now())

    def to(part: str) -> Callable[..., None]:
        return lambda *_: switch(part)

    def after_backbone(module: Any, inputs: tuple, features: list[torch.Tensor]) -> None:
        switch("heads")
        if inputs[0].requires_grad:  # in the backward pass
            inputs[0].register_hook(to("student"))
            for feature in features:
                feature.register_hook(to("backbone"))

    hooks = [
        state.student.register_forward_pre_hook(to("student")),
        state.student.register_forward_hook(to("rest")),
        state.backbone.register_forward_pre_hook(to("backbone")),
        state.backbone.register_forward_hook(after_backbone),
        state.optimizer.register_step_post_hook(to("rest")),
    ]
    pool_step = state.pool.step
    state.pool.step = lambda *args: [switch("optimizers"), pool_step(*args)]
    rows = []
    for step in range(rounds + 1):
        switch("rest")
        seconds.clear()
        training_step(state, step)
        switch("rest")
        rows.append(dict(seconds))
    del state.pool.step
    for hook in hooks:
        hook.remove()
    return {part: statistics.median(row.get(part, 0.0) for row in rows[1:]) for part in PARTS}


def measure(device: str, rounds: int, config: DistillConfig, pools: Mapping[str, int], zoo: Mapping[str, Any]) -> tuple:
    """Time everything on one device: the ratios, and the parts of a step."""
    with on_device(device), TemporaryDirectory() as folder:
        state = prepare_training(config, Path(folder))
        pending = tqdm(comparisons(state, pools, zoo), desc=f"benchmark on {device}", leave=False)
        ratios = [comparison.time(rounds, device) for comparison in pending]
        return ratios, {f"step, {describe(state)}": time_parts(state, rounds)}


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Make accelerate use a device; it remembers the first one that it was given."""
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_USE_CPU"] = str(device == "cpu")
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.pop("ACCELERATE_USE_CPU")


def write_json(ratios: list[Ratio], parts: Mapping[str, Mapping[str, float]], hardware: list[str], path: Path) -> None:
    """Write everything with what it was measured on; names on a second device end with the device."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() if which("git") else ""
    names = [r.name if r.device == ratios[0].device else f"{r.name}, {r.device}" for r in ratios]
    data = {
        "torch": torch.__version__,
        "hardware": "; ".join(hardware),
        "commit": commit or "unknown",
        "ratios": {name: asdict(r) | {"ratio": r.ratio} for name, r in zip(names, ratios, strict=True)},
        "parts": parts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the JSON file."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=devices, help="by default the CPU, and CUDA if there is a GPU")
    parser.add_argument("--rounds", type=int, default=15, help="timings of each side, of which the median is taken")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be at least 1.")
    ratios, parts, hardware = [], {}, []
    for device in [options.device] if options.device else devices:
        measured, seconds = measure(device, options.rounds, CONFIG, POOLS, ZOO | IDEAS)
        ratios += measured
        parts |= {f"{name}, {device}": values for name, values in seconds.items()}
        name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
        hardware.append(f"{name} ({platform.machine()}), torch threads: {torch.get_num_threads()}")
    print("\n".join(map(str, ratios)))
    for name, values in parts.items():
        print(f"{name}: {', '.join(f'{part} {1e3 * value:.0f} ms' for part, value in values.items())}")
    if options.json:
        write_json(ratios, parts, hardware, options.json)


def _now() -> float:
    """Seconds on a clock, after a GPU has finished its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
