"""Everything that one adversarial distillation holds, and how it is set up."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionXLPipeline as Pipeline
from diffusers import UNet2DConditionModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nitro_lab.backbones import Backbone, check_backbone
from nitro_lab.checkpoint import Checkpoint, hash_of, pipeline_hashes, weights_hash
from nitro_lab.discriminators.checks import check_heads
from nitro_lab.discriminators.inputs import bind_text_dim, sees_all_levels
from nitro_lab.discriminators.losses import GANLoss
from nitro_lab.discriminators.optimizers import HeadOptimizer
from nitro_lab.discriminators.pool import DiscriminatorPool
from nitro_lab.discriminators.views import View, view_features
from nitro_lab.models import load_pipeline
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.data import TeacherSamples, load_teacher_samples, read_prompts
from nitro_lab.training.parts import Parts

__all__ = ["TrainState", "prepare_training"]


@dataclass(frozen=True)
class TrainState:
    """Everything that a training holds; models, optimizer, pool and generator are changed in place.

    Attributes:
        pipe: the teacher's pipeline; its text encoders and VAE serve the student too.
        scheduler: the student's.
        samples: the teacher's samples and the prompts' embeddings.
        backbone: the frozen feature extractor.
        ema: the student's averaged weights, `ema.module`, which are the result.
        feature_indices: the backbone's feature levels that have heads.
        all_levels: whether a head sees all of them.
        generator: source of every random choice of a step, except for the pool's if `separate_pool_rng` is set.
        checkpoint: saves and restores everything that a step changes.
    """

    config: DistillConfig
    parts: Parts
    accelerator: Accelerator
    pipe: Pipeline
    scheduler: TimestepShiftLCMScheduler
    samples: TeacherSamples
    backbone: Backbone
    feature_indices: tuple[int, ...]
    all_levels: bool
    views: dict[str, View]
    gan_loss: GANLoss
    head_optimizer: HeadOptimizer
    student: UNet2DConditionModel
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    pool: DiscriminatorPool
    generator: torch.Generator
    checkpoint: Checkpoint


def prepare_training(config: DistillConfig, folder: Path | None = None, parts: Parts | None = None) -> TrainState:
    """Load the models, sample the teacher or load its samples, and initialize the pool.

    Args:
        folder: where the checkpoint goes, by default `build/distill`.
        parts: replaced parts.

    Raises:
        ValueError: if the settings do not fit the models, the prompts, the parts or the machine.
        HeadError: if a head breaks the rules of `nitro_lab.discriminators.checks`, or features are too small for it.
    """
    parts = parts or Parts()
    accelerator = _make_accelerator(config)
    prompts = read_prompts(config)
    teacher, start = _load_models(config, accelerator.device)
    with accelerator.main_process_first():
        settings = (config.num_real_samples, config.teacher_num_inference_steps, config.teacher_guidance_scale)
        samples = load_teacher_samples(teacher, prompts, *settings, config.real_samples_seed, config.num_prompts)
    student_hash = [weights_hash(start.unet), start.scheduler.config.shifted_timestep]
    sources = {"teacher": pipeline_hashes(teacher), "init_from": student_hash}  # not their paths, which may change
    key = config.key_settings() | sources | {"prompts": hash_of({}, prompts), "parts": parts.code_hashes()}
    student, backbone = start.unet.train().requires_grad_(), parts.make_backbone(teacher)
    if parts.backbone:
        check_backbone(backbone, samples.x0[:2], samples.embeds[:2])
    if config.compile:
        student.compile()
        backbone.compile()
    feature_indices = _feature_indices(config, len(backbone.channels))
    generator = torch.Generator(accelerator.device).manual_seed(config.seed)
    pool = _make_pool(config, parts, samples, backbone, feature_indices, generator)
    ema = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    betas = config.adam_betas
    optimizer = torch.optim.AdamW(student.parameters(), config.learning_rate, betas, weight_decay=0.0, fused=True)
    saved = {"student": student, "ema": ema, "optimizer": optimizer, "pool": pool, "generator": generator}
    if config.separate_pool_rng:
        saved["pool_generator"] = pool.generator
    return TrainState(
        config=config,
        parts=parts,
        accelerator=accelerator,
        pipe=teacher,
        scheduler=start.scheduler,
        samples=samples,
        backbone=backbone,
        feature_indices=feature_indices,
        all_levels=sees_all_levels(parts.make_head(config)),
        views=parts.make_views(config),
        gan_loss=parts.make_loss(config),
        head_optimizer=parts.make_optimizer(config),
        student=student,
        ema=ema,
        optimizer=optimizer,
        pool=pool,
        generator=generator,
        checkpoint=Checkpoint((folder or Path("build/distill")) / "checkpoint.safetensors", key, **saved),
    )


def _make_accelerator(config: DistillConfig) -> Accelerator:
    """The device and the processes, each of which gets the same number of images."""
    AcceleratorState._reset_state()  # it keeps the precision of the process's first run, and refuses another
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    if config.batch_size % accelerator.num_processes:
        raise ValueError(f"batch_size {config.batch_size} cannot be split over {accelerator.num_processes} processes.")
    return accelerator


def _load_models(config: DistillConfig, device: torch.device) -> tuple[Pipeline, Pipeline]:
    """The teacher, and the one-step model that the student starts from."""
    names = config.teacher, config.init_from
    teacher, start = (load_pipeline(name, device=device, dtype=torch.float32) for name in names)
    if not isinstance(start.scheduler, TimestepShiftLCMScheduler):
        raise ValueError(f"init_from is {config.init_from!r}, which has no shifted timestep; try mini-regressed.")
    start.scheduler.set_timesteps(max(config.stages))  # refuses more steps than its schedule has
    return teacher, start


def _feature_indices(config: DistillConfig, num_levels: int) -> tuple[int, ...]:
    if max(config.feature_indices, default=0) >= num_levels:
        raise ValueError(f"feature_indices is {config.feature_indices}; the backbone has levels 0 to {num_levels - 1}.")
    return config.feature_indices or tuple(range(num_levels))


def _make_pool(
    config: DistillConfig,
    parts: Parts,
    samples: TeacherSamples,
    backbone: Backbone,
    feature_indices: tuple[int, ...],
    generator: torch.Generator,
) -> DiscriminatorPool:
    """A pool of new heads, which are first checked on the features that they will see."""
    head = bind_text_dim(parts.make_head(config), samples.empty_embeds.pooled_prompt_embeds.shape[1])
    all_levels, views = sees_all_levels(parts.make_head(config)), parts.make_views(config)
    rows = torch.arange(4, device=samples.x0.device) % len(samples.x0)
    zeros = torch.zeros_like(rows)
    example = torch.Generator(rows.device).manual_seed(0)
    latents = torch.randn(samples.x0[rows].shape, generator=example, device=rows.device)
    prompts = samples.embeds[rows], samples.empty_embeds[zeros]
    with torch.no_grad():
        seen = view_features(latents, zeros + 500, *prompts, views, backbone, feature_indices, all_levels, example)
    check_heads(head, seen)
    channels = [backbone.channels[index] for index in feature_indices]
    if config.separate_pool_rng:
        generator = torch.Generator(generator.device).manual_seed(config.seed)
    sample_heads, select_refreshed = parts.make_selection()
    return DiscriminatorPool(
        head,
        [channels] if all_levels else channels,
        generator,
        noise_levels=len(config.t_star),
        views=len(views),
        heads_per_cell=config.heads_per_cell,
        vectorize=config.vectorize_heads,
        reset_optimizer=config.reset_optimizer_on_refresh,
        sample_heads=sample_heads,
        select_refreshed=select_refreshed,
    )
