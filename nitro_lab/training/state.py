"""Everything that one adversarial distillation holds, and how it is set up."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionXLPipeline as Pipeline
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nitro_lab.backbones import Backbone, SharedUNetEncoder, check_backbone
from nitro_lab.checkpoint import Checkpoint, hash_of, pipeline_hashes, weights_hash
from nitro_lab.discriminators.checks import check_heads
from nitro_lab.discriminators.inputs import bind_text_dim, sees_all_levels
from nitro_lab.discriminators.losses import GANLoss
from nitro_lab.discriminators.optimizers import HeadOptimizer
from nitro_lab.discriminators.pool import DiscriminatorPool
from nitro_lab.discriminators.views import View, view_features
from nitro_lab.models import load_pipeline
from nitro_lab.sampling import PromptEmbeds
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.data import TeacherSamples, load_teacher_samples, read_prompts, teacher_sampling
from nitro_lab.training.parts import Parts
from nitro_lab.training.student import averaged, prepare_student

__all__ = ["TrainState", "assemble", "frozen_dtype", "prepare_training"]


@dataclass(frozen=True)
class TrainState:
    """Everything that a training holds; models, optimizer, pool and generator are changed in place.

    Attributes:
        pipe: the teacher's pipeline; its text encoders and VAE serve the student too. With a LoRA student, its UNet is
            the student.
        scheduler: the student's.
        samples: the teacher's samples and the prompts' embeddings.
        backbone: the frozen feature extractor.
        empty_embeds: embeddings of the empty prompt on the device, one row.
        trained: the student's weights that are trained, on which `optimizer` and `ema` work.
        ema: their average, which is the result; see `averaged`.
        loss_scale: what L_G is multiplied by, so that float16 gradients do not underflow; 1 for other precisions.
        feature_indices: the backbone's feature levels that have heads.
        all_levels: whether a head sees all of them.
        generator: source of every random choice of a step, except for the pool's if `separate_pool_rng` is set; on the
            CPU.
        checkpoint: saves and restores everything that a step changes.
    """

    config: DistillConfig
    parts: Parts
    accelerator: Accelerator
    pipe: Pipeline
    scheduler: TimestepShiftLCMScheduler
    samples: TeacherSamples
    empty_embeds: PromptEmbeds
    backbone: Backbone
    feature_indices: tuple[int, ...]
    all_levels: bool
    views: dict[str, View]
    gan_loss: GANLoss
    head_optimizer: HeadOptimizer
    student: UNet2DConditionModel
    trained: nn.ParameterList
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    loss_scale: Tensor
    pool: DiscriminatorPool
    generator: torch.Generator
    checkpoint: Checkpoint

    @contextmanager
    def averaged(self) -> Iterator[UNet2DConditionModel]:
        """The student with its averaged weights, within this context."""
        with averaged(self.trained, self.ema):
            yield self.student


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
        settings = (config.num_real_samples, *teacher_sampling(config), config.real_samples_seed, config.num_prompts)
        hashes = pipeline_hashes(teacher)
        samples = load_teacher_samples(teacher, prompts, *settings, hashes=hashes)
    student_hash = [weights_hash(start.unet), start.scheduler.config.shifted_timestep]
    sources = {"teacher": hashes, "init_from": student_hash}  # not their paths, which may change
    sources["teacher_sampling"] = teacher_sampling(config)
    key = config.key_settings() | sources | {"prompts": hash_of({}, prompts), "parts": parts.code_hashes()}
    path = (folder or Path("build/distill")) / "checkpoint.safetensors"
    if config.student == "lora":
        teacher.unet = start.unet  # from here on, so that the GPU has one UNet
    student = start.unet.to(accelerator.device)
    trained = prepare_student(student, config)
    ema = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    backbone = _make_backbone(config, parts, teacher, student)
    _check_on_samples(config, parts, accelerator, samples, backbone)
    if config.compile:
        student.compile()
        backbone.compile()
    networks = teacher, start.scheduler, backbone, student, trained, ema
    return assemble(config, parts, accelerator, samples, *networks, checkpoint=(path, key))


def assemble(
    config: DistillConfig,
    parts: Parts,
    accelerator: Accelerator,
    samples: TeacherSamples,
    pipe: Pipeline,
    scheduler: TimestepShiftLCMScheduler,
    backbone: Backbone,
    student: UNet2DConditionModel,
    trained: nn.ParameterList,
    ema: AveragedModel,
    checkpoint: tuple[Path, dict[str, Any]],
) -> TrainState:
    """Make a state of these networks, with new heads and optimizers; `checkpoint` is its file and its settings."""
    generator = torch.Generator().manual_seed(config.seed)
    pool = _make_pool(config, parts, samples, backbone, generator, accelerator.device)
    optimizer = torch.optim.AdamW(trained, config.learning_rate, config.adam_betas, weight_decay=0.0, fused=True)
    loss_scale = torch.tensor(2.0**12 if config.mixed_precision == "fp16" else 1.0)
    saved: dict[str, Any] = {"student": trained, "ema": ema, "optimizer": optimizer, "pool": pool}
    saved["generator"] = generator
    if config.separate_pool_rng:
        saved["pool_generator"] = pool.generator
    if config.mixed_precision == "fp16":
        saved["loss_scale"] = loss_scale
    return TrainState(
        config=config,
        parts=parts,
        accelerator=accelerator,
        pipe=pipe,
        scheduler=scheduler,
        samples=samples,
        empty_embeds=samples.empty_embeds.to(accelerator.device),
        backbone=backbone,
        feature_indices=_feature_indices(config, backbone),
        all_levels=sees_all_levels(parts.make_head(config)),
        views=parts.make_views(config),
        gan_loss=parts.make_loss(config),
        head_optimizer=parts.make_optimizer(config),
        student=student,
        trained=trained,
        ema=ema,
        optimizer=optimizer,
        loss_scale=loss_scale,
        pool=pool,
        generator=generator,
        checkpoint=Checkpoint(*checkpoint, **saved),
    )


def _make_accelerator(config: DistillConfig) -> Accelerator:
    """The device and the processes, each of which gets the same number of images."""
    AcceleratorState._reset_state()  # it keeps the precision of the process's first run, and refuses another
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=config.mixed_precision)
    if config.batch_size % accelerator.num_processes:
        raise ValueError(f"batch_size {config.batch_size} cannot be split over {accelerator.num_processes} processes.")
    is_cuda, precision = accelerator.device.type == "cuda", config.mixed_precision
    if precision == "fp16" and not is_cuda:
        raise ValueError("mixed_precision is fp16, which needs a CUDA GPU; use no or bf16.")
    if precision == "bf16" and is_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError("mixed_precision is bf16, which GPUs before Ampere do not have; use fp16.")
    if config.shard and accelerator.num_processes == 1:
        raise ValueError("shard is set in a training of one process; start several with accelerate launch.")
    if is_cuda and config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic matrix products
        torch.use_deterministic_algorithms(True)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return accelerator


def _load_models(config: DistillConfig, device: torch.device) -> tuple[Pipeline, Pipeline]:
    """The teacher, and the one-step model that the student starts from."""
    dtype = frozen_dtype(config) if config.student == "lora" else torch.float32
    teacher = load_pipeline(config.teacher, device=device, dtype=dtype)
    start_device = "cpu" if config.student == "lora" else device  # until the teacher has made its samples
    shift = config.shifted_timestep
    start = load_pipeline(config.init_from, device=start_device, dtype=dtype, shifted_timestep=shift, share=teacher)
    if not isinstance(start.scheduler, TimestepShiftLCMScheduler):
        problem = f"init_from is {config.init_from!r}, which has no shifted timestep"
        raise ValueError(f"{problem}; set shifted_timestep (NitroSD-Realism has 250), or try mini-regressed.")
    start.scheduler.set_timesteps(max(config.stages))  # refuses more steps than its schedule has
    return teacher, start


def frozen_dtype(config: DistillConfig) -> torch.dtype:
    """Of networks that are not trained: under autocast, float32 weights would be cast again in each pass."""
    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.mixed_precision]


def _make_backbone(config: DistillConfig, parts: Parts, teacher: Pipeline, student: UNet2DConditionModel) -> Backbone:
    """A part; the UNet that a LoRA student shares; or a copy of the teacher's encoder."""
    if config.student == "lora":
        return parts.make_backbone(teacher) if parts.backbone else SharedUNetEncoder(student)
    if config.gradient_checkpointing:
        teacher.unet.enable_gradient_checkpointing()
    backbone = parts.make_backbone(teacher)
    if not parts.backbone:
        backbone.to(frozen_dtype(config))
    if config.gradient_checkpointing:
        teacher.unet.to("cpu")
    return backbone


def _feature_indices(config: DistillConfig, backbone: Backbone) -> tuple[int, ...]:
    levels = tuple(range(len(backbone.channels)))
    if not set(config.feature_indices) <= set(levels):
        raise ValueError(f"feature_indices is {config.feature_indices}; the backbone has levels 0 to {levels[-1]}.")
    return config.feature_indices or levels


def _make_head(config: DistillConfig, parts: Parts, samples: TeacherSamples) -> Callable[..., nn.Module]:
    return bind_text_dim(parts.make_head(config), samples.empty_embeds.pooled_prompt_embeds.shape[1])


def _check_on_samples(
    config: DistillConfig, parts: Parts, accelerator: Accelerator, samples: TeacherSamples, backbone: Backbone
) -> None:
    """Check a backbone that is a part, and heads on the features that they will see."""
    device, rows, example = accelerator.device, torch.arange(4) % len(samples.x0), torch.Generator().manual_seed(0)
    latents = torch.randn(samples.x0[rows].shape, generator=example).to(device)
    embeds, empty_embeds = samples.embeds[rows].to(device), samples.empty_embeds.to(device).expand(4)
    timesteps, views = torch.full((4,), 500, device=device), parts.make_views(config)
    levels, all_levels = _feature_indices(config, backbone), sees_all_levels(parts.make_head(config))
    with torch.no_grad(), accelerator.autocast():
        if parts.backbone:
            check_backbone(backbone, latents[:2], embeds[:2])
        seen = view_features(latents, timesteps, embeds, empty_embeds, views, backbone, levels, all_levels, example)
    check_heads(_make_head(config, parts, samples), seen)


def _make_pool(
    config: DistillConfig,
    parts: Parts,
    samples: TeacherSamples,
    backbone: Backbone,
    generator: torch.Generator,
    device: torch.device,
) -> DiscriminatorPool:
    channels = [backbone.channels[index] for index in _feature_indices(config, backbone)]
    if config.separate_pool_rng:
        generator = torch.Generator().manual_seed(config.seed)
    sample_heads, select_refreshed = parts.make_selection()
    return DiscriminatorPool(
        _make_head(config, parts, samples),
        [channels] if sees_all_levels(parts.make_head(config)) else channels,
        generator,
        noise_levels=len(config.t_star),
        views=len(parts.make_views(config)),
        heads_per_cell=config.heads_per_cell,
        vectorize=config.vectorize_heads,
        reset_optimizer=config.reset_optimizer_on_refresh,
        sample_heads=sample_heads,
        select_refreshed=select_refreshed,
        device=device,
    )
