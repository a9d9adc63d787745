"""Every setting of adversarial distillation, with its meaning."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin

from nitro_lab.integers import integer

__all__ = ["DistillConfig", "GANLossName", "StepSampling"]

# Names of modules that import torch, which `nitro-lab --help` should not; a test compares them.
GANLossName = Literal["linear", "hinge", "non_saturating", "relativistic"]
Pairing = Literal["independent", "same_noise"]
StepSampling = Literal["any_schedule", "any_step", "last_step"]
MixedPrecision = Literal["no", "bf16", "fp16"]
StudentKind = Literal["full", "lora"]
ViewName = Literal["global_conditional", "local_conditional", "local_unconditional", "global_unconditional"]

_PAPER_VIEWS: tuple[ViewName, ...] = ("global_conditional", "local_conditional", "local_unconditional")
_POSITIVE = (
    *("max_train_steps", "batch_size", "gradient_accumulation_steps", "checkpointing_steps", "stage_steps"),
    *("student_update_freq", "disc_update_freq", "num_real_samples", "num_prompts"),
    *("heads_per_cell", "head_width", "head_depth", "crop_size", "crops_per_image", "lora_rank"),
)
_NON_NEGATIVE = ("disc_warmup_steps", "learning_rate", "disc_learning_rate")


@dataclass(frozen=True)
class DistillConfig:
    """Settings of one adversarial distillation.

    [F]: stated by the paper (arXiv 2412.02030, section 3). The other defaults were found on the miniature. Raises a
    ValueError if a value is out of range.
    """

    teacher: str = "mini-teacher"  # model that generates the real samples; its encoder is the backbone
    init_from: str = "mini-regressed"  # one-step model that the student starts from, with its shifted timestep
    shifted_timestep: int | None = None  # of the student; None: init_from's, which must have one
    student: StudentKind = "full"  # lora: the backbone and the student share init_from's UNet, which is not changed
    lora_rank: int = 64  # of the student's LoRA
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")  # layers of the UNet that get a LoRA
    prompts: str = ""  # text file, or file.csv:column, file.parquet:column, dataset:column; empty: training captions
    seed: int = 0  # random seed of the training
    max_train_steps: int = 400  # a finished run continues if this is raised
    batch_size: int = 16  # images of one forward pass, over all processes
    gradient_accumulation_steps: int = 1  # forward passes per update

    num_real_samples: int = 1024  # teacher samples kept on disk
    real_samples_seed: int = 0  # random seed of the teacher samples; runs with other seeds share them
    num_prompts: int = 4096  # further prompts, for fakes only; their embeddings are kept on disk
    teacher_num_inference_steps: int | None = None  # for each real sample; None: as the teacher is meant to be sampled
    teacher_guidance_scale: float | None = None  # for each real sample, likewise; 1 or less disables guidance

    t_star: tuple[int, ...] = (10, 250, 500, 750)  # noise levels of the discriminators [F]
    views: tuple[ViewName, ...] = _PAPER_VIEWS  # what the heads see [F]
    crop_size: int = 8  # side of a local view, in latent pixels
    crops_per_image: int = 2  # crops that a local view takes of each image
    feature_indices: tuple[int, ...] = ()  # feature levels with heads, counted from 0; empty: all
    heads_per_cell: int = 4  # heads per noise level, view and feature level [F, inferred]
    sampled_heads_per_cell: int = 4  # heads sampled from each cell of one noise level in a step
    refresh_rate: float = 0.001  # fraction of all heads re-initialized after each step; the paper's is 0.01
    reset_optimizer_on_refresh: bool = True  # a re-initialized head starts with an empty optimizer state
    pairing: Pairing = "independent"  # same_noise: fakes start from the reals' x_T and prompts, as in the paper [F]
    share_noise: bool = True  # real and fake samples are noised to t* with the same noise
    separate_pool_rng: bool = False  # the pool has its own random generator, so that other pools see the same data
    gan_loss: GANLossName = "hinge"  # the paper prints linear
    head_width: int = 32  # channels inside a head
    head_depth: int = 1  # number of strided convolutions in a head
    vectorize_heads: bool = True  # run the heads of a cell together; otherwise one after another

    stages: tuple[int, ...] = (1,)  # largest number of inference steps in each stage; bottom-up: 1 2 3 4 [F]
    stage_steps: int = 300  # training steps of each stage except the last
    step_sampling: StepSampling = "any_schedule"  # any step of any schedule, any of the longest, or its last
    one_step_prob: float = 0.0  # probability that a batch trains one-step inference, whatever step_sampling gives
    rollout_grad: bool = False  # backpropagate through the last re-noising into the previous prediction

    learning_rate: float = 3e-5  # of the student's AdamW
    disc_learning_rate: float = 5e-3  # of the heads' AdamW
    adam_betas: tuple[float, float] = (0.5, 0.99)  # of the student's AdamW
    disc_adam_betas: tuple[float, float] = (0.5, 0.99)  # of the heads' AdamW
    disc_warmup_steps: int = 80  # first steps train the heads only; the student's learning rate then rises as long
    student_update_freq: int = 2  # update the student every N steps
    disc_update_freq: int = 1  # update the heads every N steps, and in every step of the warm-up
    max_grad_norm: float = 1.0  # of the student; inf disables clipping
    ema_decay: float = 0.99  # of the student's averaged weights, which are the result

    checkpointing_steps: int = 50  # steps between checkpoints
    mixed_precision: MixedPrecision = "no"  # bf16 or, on GPUs before Ampere, fp16; frozen networks are kept in it
    gradient_checkpointing: bool = False  # less memory for activations, a third more time; the teacher leaves the GPU
    view_by_view: bool = False  # graph of one view at a time: less memory, one more pass of the student
    shard: bool = False  # spread a full student, its gradients and moments over all processes (FSDP2)
    compile: bool = False  # torch.compile student and backbone; the first step then takes minutes
    deterministic: bool = False  # on CUDA: the same bits again, by slower kernels; for the whole process

    def __post_init__(self) -> None:
        """Refuse impossible settings before anything is loaded; make integers of other libraries Python's."""
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if get_origin(field.type) is Literal:
                self._check_choices(name, [value], get_args(field.type))
            elif field.type is int or (field.type == int | None and value is not None):
                object.__setattr__(self, name, integer(name, value))
            elif field.type == tuple[int, ...]:
                object.__setattr__(self, name, tuple(integer(f"an entry of {name}", entry) for entry in value))
        self._check_choices("views", self.views, get_args(ViewName))
        for name in _POSITIVE:
            self._check_range(name, 1)
        if self.teacher_num_inference_steps is not None:
            self._check_range("teacher_num_inference_steps", 1)
        for name in _NON_NEGATIVE:
            self._check_range(name, 0)
        for name in ("refresh_rate", "ema_decay", "one_step_prob"):
            self._check_range(name, 0, 1)
        self._check_range("sampled_heads_per_cell", 1, self.heads_per_cell)
        if self.head_width % 8:
            raise ValueError(f"head_width is {self.head_width}; it must be a multiple of 8 (GroupNorm has 8 groups).")
        for name in ("adam_betas", "disc_adam_betas"):
            betas = getattr(self, name)
            if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
                raise ValueError(f"{name} is {betas}; give two values, each at least 0 and below 1.")
        if self.shard and self.student == "lora":
            raise ValueError("shard is set with student lora; only a full student can be sharded.")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; it must be above 0 (inf disables clipping).")
        if not self.t_star or min(self.t_star) < 0 or max(self.t_star) > 999:
            raise ValueError(f"t_star is {self.t_star}; give one or more timesteps from 0 to 999.")
        if not self.stages or min(self.stages) < 1:
            raise ValueError(f"stages is {self.stages}; give one or more numbers of steps from 1 (bottom-up: 1 2 3 4).")
        if len(set(self.feature_indices)) < len(self.feature_indices) or min(self.feature_indices, default=0) < 0:
            raise ValueError(f"feature_indices is {self.feature_indices}; give different levels, counted from 0.")

    def _check_choices(self, name: str, values: Sequence[str], allowed: tuple[str, ...]) -> None:
        if not values or len(set(values)) < len(values) or not set(values) <= set(allowed):
            raise ValueError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(allowed)}.")

    def _check_range(self, name: str, low: float, high: float = float("inf")) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            upper = "" if high == float("inf") else f" and at most {high}"
            raise ValueError(f"{name} is {value}; it must be at least {low}{upper}.")

    def key_settings(self) -> dict[str, Any]:
        """The settings that a run's results depend on: all but its length and how often it is saved."""
        others = ("max_train_steps", "checkpointing_steps")
        return {name: value for name, value in asdict(self).items() if name not in others}
