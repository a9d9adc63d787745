"""Everything that a run of adversarial distillation holds, and how it is set up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nitro_lab.backbone import FrozenBackbone
from nitro_lab.checkpoints import load_pipeline
from nitro_lab.distill_config import DistillConfig
from nitro_lab.head_contract import bind_text, check_heads
from nitro_lab.ideas import AS_CONFIGURED, Ideas
from nitro_lab.mini.world import caption, split_scenes
from nitro_lab.pool import DiscriminatorPool
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.snapshots import Snapshot
from nitro_lab.teacher_samples import TeacherSamples, describe, fingerprint, key_of, load_teacher_samples
from nitro_lab.views import View


@dataclass(frozen=True)
class Training:
    """Everything that a run holds; the parts are changed in place."""

    config: DistillConfig
    accelerator: Accelerator
    pipe: StableDiffusionXLPipeline
    scheduler: TimestepShiftLCMScheduler
    samples: TeacherSamples
    backbone: FrozenBackbone
    student: UNet2DConditionModel
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    pool: DiscriminatorPool
    generator: torch.Generator
    snapshot: Snapshot
    levels: tuple[int, ...]
    ideas: Ideas


def prepare(config: DistillConfig, folder: Path | None = None, ideas: Ideas = AS_CONFIGURED) -> Training:
    """Load the models, make or load the teacher's samples, and build the pool.

    Args:
        folder: where checkpoints go, by default `build/distill`.
        ideas: parts that are other than the config says.

    Raises:
        ValueError: if the settings do not go together with the models, the prompts, the ideas or the machine.
    """
    accelerator = make_accelerator(config)
    prompts = read_prompts(config)
    teacher, start = load_models(config, accelerator.device)
    with accelerator.main_process_first():
        samples = sample_teacher(teacher, prompts, config)
    made_of = {
        "teacher's weights": describe(teacher),
        "student's weights": fingerprint(start.unet),
        "prompts' words": key_of({}, prompts),
    }
    student, backbone = start.unet.train().requires_grad_(), FrozenBackbone(teacher.unet)
    if config.compile:
        student.compile()
        backbone.compile()
    levels = judged_levels(config, len(backbone.channels))
    generator = torch.Generator(accelerator.device).manual_seed(config.seed)
    parts = {
        "student": student,
        "average": AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(config.ema)),
        "optimizer": torch.optim.AdamW(
            student.parameters(), config.student_rate, betas=config.student_betas, weight_decay=0.0, fused=True
        ),
        "pool": fill_pool(config, ideas, samples, backbone, levels, generator),
        "generator": generator,
    }
    snapshot = Snapshot(
        (folder or Path("build/distill")) / "checkpoint.safetensors",
        config.outcome() | made_of | {f"code of {name}": code for name, code in ideas.fingerprints().items()},
        **parts,
        **({"pool_generator": parts["pool"].generator} if config.separate_chance else {}),
    )
    return Training(
        config,
        accelerator,
        teacher,
        start.scheduler,
        samples,
        backbone,
        **parts,
        snapshot=snapshot,
        levels=levels,
        ideas=ideas,
    )


def make_accelerator(config: DistillConfig) -> Accelerator:
    """The device and the processes; each of these must get as many images.

    Raises:
        ValueError: if a batch cannot be dealt out.
    """
    AcceleratorState._reset_state()  # it holds the precision of the process' first run, and refuses another
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    if config.batch_size % (config.accumulation * accelerator.num_processes):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be split over {accelerator.num_processes} processes "
            f"with {config.accumulation} parts each."
        )
    return accelerator


def load_models(
    config: DistillConfig, device: torch.device
) -> tuple[StableDiffusionXLPipeline, StableDiffusionXLPipeline]:
    """The teacher, and what the student starts from.

    Raises:
        ValueError: if the student is none of one step, or its schedule has fewer steps than it shall learn.
    """
    teacher, start = (
        load_pipeline(name, device=device, dtype=torch.float32) for name in (config.teacher, config.student)
    )
    if not isinstance(start.scheduler, TimestepShiftLCMScheduler):
        raise ValueError(
            f"student {config.student!r} has no shifted timestep; give a one-step student, such as mini-regressed."
        )
    start.scheduler.set_timesteps(max(config.stages))  # refuses more steps than its schedule has
    return teacher, start


def sample_teacher(teacher: StableDiffusionXLPipeline, prompts: list[str], config: DistillConfig) -> TeacherSamples:
    """The reals and the embedded prompts, from the cache if they are there."""
    return load_teacher_samples(
        teacher,
        prompts,
        config.reals,
        config.teacher_steps,
        config.teacher_guidance,
        config.reals_seed,
        config.captions,
    )


def fill_pool(
    config: DistillConfig,
    ideas: Ideas,
    samples: TeacherSamples,
    backbone: FrozenBackbone,
    levels: Sequence[int],
    generator: torch.Generator,
) -> DiscriminatorPool:
    """A pool of newborn critics; a head of the user's own is first tried on what it will see.

    Args:
        generator: the run's; the pool has one of its own where the config separates their chance.

    Raises:
        HeadError: if the head is none.
    """
    head = bind_text(ideas.head_of(config), samples.empty.pooled.shape[1])
    views = ideas.views_of(config)
    if ideas.head:
        check_heads(head, [sight for view in views.values() for sight in first_sight(view, samples, backbone, levels)])
    draw, retire = ideas.policies()
    own = torch.Generator(generator.device).manual_seed(config.seed)
    return DiscriminatorPool(
        head,
        [backbone.channels[level] for level in levels],
        own if config.separate_chance else generator,
        noise_levels=len(config.t_star),
        views=len(views),
        slots=config.slots,
        vectorize=config.vectorize,
        refresh_clears=config.refresh_clears,
        draw=draw,
        retire=retire,
    )


@torch.no_grad()
def first_sight(
    view: View, samples: TeacherSamples, backbone: FrozenBackbone, levels: Sequence[int], images: int = 4
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What heads of a view get to see of a few reals: features (B, C, h, w) of each level, with text (B, E)."""
    rows = torch.arange(images, device=samples.x0.device) % len(samples.x0)
    empty = samples.empty[torch.zeros_like(rows)]
    generator = torch.Generator(rows.device).manual_seed(0)
    noisy = samples.x0[rows] + torch.randn(samples.x0[rows].shape, generator=generator, device=rows.device)
    latents, told = view(noisy, samples.conditioning[rows], empty, generator)
    maps = backbone(latents, 0, told)
    return [(maps[level].float(), told.pooled.float()) for level in levels]


def judged_levels(config: DistillConfig, count: int) -> tuple[int, ...]:
    """The feature levels that have heads.

    Raises:
        ValueError: if the backbone has no such level.
    """
    if max(config.levels, default=0) >= count:
        raise ValueError(
            f"levels is {config.levels}; the backbone has levels 0 to {count - 1}, the last is the mid block."
        )
    return config.levels or tuple(range(count))


def read_prompts(config: DistillConfig) -> list[str]:
    """The lines of the prompt file, or the world's training captions."""
    if not config.prompts:
        return [caption(scene) for scene in split_scenes()[0]]
    prompts = [line.strip() for line in Path(config.prompts).read_text().splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{config.prompts} holds no prompt; write one a line.")
    return prompts
