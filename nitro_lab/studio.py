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
    """
    AcceleratorState._reset_state()  # it holds the precision of the process' first run, and refuses another
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    device = accelerator.device
    if config.batch_size % (config.accumulation * accelerator.num_processes):
        raise ValueError(
            f"batch_size {config.batch_size} cannot be split over {accelerator.num_processes} processes "
            f"with {config.accumulation} parts each."
        )
    prompts = read_prompts(config)
    teacher = load_pipeline(config.teacher, device=device, dtype=torch.float32)
    start = load_pipeline(config.student, device=device, dtype=torch.float32)
    if not isinstance(start.scheduler, TimestepShiftLCMScheduler):
        raise ValueError(
            f"student {config.student!r} has no shifted timestep; give a one-step student, such as mini-regressed."
        )
    start.scheduler.set_timesteps(max(config.stages))  # refuses more steps than its schedule has
    with accelerator.main_process_first():
        samples = load_teacher_samples(
            teacher,
            prompts,
            config.reals,
            config.teacher_steps,
            config.teacher_guidance,
            config.reals_seed,
            config.captions,
        )
    made_of = {
        "teacher's weights": describe(teacher),
        "student's weights": fingerprint(start.unet),
        "prompts' words": key_of({}, prompts),
    }
    student = start.unet.train().requires_grad_()
    backbone = FrozenBackbone(teacher.unet)
    if config.compile:
        student.compile()
        backbone.compile()
    levels = judged_levels(config, len(backbone.channels))
    draw, retire = ideas.policies()
    head = bind_text(ideas.head_of(config), samples.empty.pooled.shape[1])
    if ideas.head:
        views = ideas.views_of(config).values()
        check_heads(head, [sight for view in views for sight in first_sight(view, samples, backbone, levels)])
    generator = torch.Generator(device).manual_seed(config.seed)
    pool_generator = torch.Generator(device).manual_seed(config.seed) if config.separate_chance else generator
    parts = {
        "student": student,
        "average": AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(config.ema)),
        "optimizer": torch.optim.AdamW(
            student.parameters(), config.student_rate, betas=(0.5, 0.99), weight_decay=0.0, fused=True
        ),
        "pool": DiscriminatorPool(
            head,
            [backbone.channels[level] for level in levels],
            pool_generator,
            noise_levels=len(config.t_star),
            views=len(ideas.views_of(config)),
            slots=config.slots,
            vectorize=config.vectorize,
            refresh_clears=config.refresh_clears,
            draw=draw,
            retire=retire,
        ),
        "generator": generator,
    }
    snapshot = Snapshot(
        (folder or Path("build/distill")) / "checkpoint.safetensors",
        config.outcome() | made_of | {f"code of {name}": code for name, code in ideas.fingerprints().items()},
        **parts,
        **({"pool_generator": pool_generator} if config.separate_chance else {}),
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
