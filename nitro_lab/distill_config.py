"""Every setting of adversarial distillation, with its meaning."""

from dataclasses import dataclass, field, fields
from typing import Any

from nitro_lab.objectives import OBJECTIVES
from nitro_lab.stages import LAWS
from nitro_lab.views import CHOICES, PAPER_VIEWS

MIXED_PRECISIONS = ("no", "bf16")
COUNTS = (
    *("steps", "batch_size", "accumulation", "save_every", "student_every", "critic_every"),
    *("reals", "captions", "teacher_steps", "slots", "width", "depth", "crop_size", "crops", "stage_steps"),
)


def setting(default: Any, meaning: str, later: bool = False) -> Any:
    """A field of a frozen dataclass that explains itself; the command line shows the same words.

    Args:
        later: it was added when there were runs already, whose numbers its default does not change: see `outcome`.
    """
    return field(default=default, metadata={"meaning": meaning, "later": later})


@dataclass(frozen=True)
class DistillConfig:
    """Settings of one run. [F] in a meaning: stated by the paper; all else was found on the miniature.

    Raises:
        ValueError: if a value is out of range; the message says what is allowed.
    """

    teacher: str = setting(
        "mini-teacher", "model whose many-step samples are the reals, and whose encoder is the backbone"
    )
    student: str = setting("mini-regressed", "model to start from, with its shifted timestep")
    prompts: str = setting("", "text file with a prompt a line; empty: the training captions of the miniature's world")
    seed: int = setting(0, "of everything that is drawn")
    steps: int = setting(400, "training steps; a finished run goes on if it is given more")
    batch_size: int = setting(16, "images of a step, over all processes and parts")
    accumulation: int = setting(1, "parts that a batch is split into, to save memory")

    reals: int = setting(1024, "samples of the teacher on disk")
    reals_seed: int = setting(0, "of the teacher's samples; runs of other seeds share them")
    captions: int = setting(4096, "prompts that fakes are made of; their embeddings are on disk too")
    teacher_steps: int = setting(12, "steps of each")
    teacher_guidance: float = setting(3.0, "guidance of each; 1 or less is none")

    t_star: tuple[int, ...] = setting((10, 250, 500, 750), "noise levels at which critics look [F]")
    views: tuple[str, ...] = setting(PAPER_VIEWS, f"what critics get to see, of {', '.join(CHOICES)} [F]")
    crop_size: int = setting(8, "latent pixels a side of a local view")
    crops: int = setting(2, "crops that a local view takes of each image")
    levels: tuple[int, ...] = setting((), "feature levels that are judged, from 0; empty: all of them", later=True)
    slots: int = setting(4, "heads in a cell of the pool (noise level × view × feature level)")
    per_cell: int = setting(4, "heads that a step draws from each cell of its noise level")
    refresh: float = setting(0.001, "share of all heads thrown away after each step; the paper's is 0.01")
    refresh_clears: bool = setting(
        True, "a new head starts with a new optimiser state; without, it keeps its predecessor's", later=True
    )
    shared_noise: bool = setting(True, "one noise hides a real and a fake at t*; without, each has its own", later=True)
    separate_chance: bool = setting(
        False, "the pool has a generator of its own: runs with other pools then see the same data in order", later=True
    )
    objective: str = setting("hinge", f"one of {', '.join(OBJECTIVES)}; the paper prints linear")
    width: int = setting(32, "channels inside a head")
    depth: int = setting(1, "how many times a head halves its feature map")
    vectorize: bool = setting(True, "heads of a cell run side by side; without, one after another")

    stages: tuple[int, ...] = setting(
        (1,), "most steps that the student learns to take, stage after stage; bottom-up: 1 2 3 4 [F]"
    )
    stage_steps: int = setting(300, "training steps of each stage but the last, which has all that are left")
    step_law: str = setting("any schedule", f"which step of which schedule a batch trains, one of {', '.join(LAWS)}")
    one_step_share: float = setting(0.0, "share of batches that train one step whatever the law draws")
    rollout_gradient: bool = setting(False, "let gradients through the last re-noising, into the step before")

    student_rate: float = setting(3e-5, "AdamW's learning rate of the student")
    critic_rate: float = setting(5e-3, "AdamW's learning rate of the heads")
    student_betas: tuple[float, float] = setting(
        (0.5, 0.99), "how long AdamW remembers the student's gradients, and their squares", later=True
    )
    critic_betas: tuple[float, float] = setting((0.5, 0.99), "the same for the heads", later=True)
    warm_up: int = setting(80, "first steps, for the critics alone; the student's rate then rises over as many")
    student_every: int = setting(2, "the student learns in every so many-th step")
    critic_every: int = setting(1, "the critics learn in every so many-th step, and in each of the warm-up")
    clip: float = setting(1.0, "largest norm of the student's gradient")
    ema: float = setting(0.99, "decay of the averaged student, which is the one that is kept")

    save_every: int = setting(50, "steps between checkpoints")
    mixed_precision: str = setting("no", f"one of {', '.join(MIXED_PRECISIONS)}; bf16 is for CUDA")
    compile: bool = setting(False, "torch.compile student and backbone; the first step then takes minutes")

    def __post_init__(self):
        """Refuse what cannot work, before anything is loaded."""
        self.check_choice("objective", tuple(OBJECTIVES))
        self.check_choice("mixed_precision", MIXED_PRECISIONS)
        self.check_choice("step_law", tuple(LAWS))
        for name in COUNTS:
            self.check_range(name, 1)
        self.check_range("per_cell", 1, self.slots)
        self.check_range("refresh", 0, 1)
        self.check_range("ema", 0, 1)
        self.check_range("one_step_share", 0, 1)
        for name in ("warm_up", "student_rate", "critic_rate"):
            self.check_range(name, 0)
        for name in ("student_betas", "critic_betas"):
            betas = getattr(self, name)
            if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
                raise ValueError(
                    f"{name} is {betas}; give two numbers, each at least 0 and below 1 (0 forgets at once)."
                )
        if not self.clip > 0:
            raise ValueError(f"clip is {self.clip}; it must be above 0 (inf: no clipping).")
        if not self.views or len(set(self.views)) < len(self.views) or not set(self.views) <= set(CHOICES):
            raise ValueError(f"views is {self.views}; give one or more of {', '.join(CHOICES)}, each once.")
        if not self.t_star or min(self.t_star) < 0 or max(self.t_star) > 999:
            raise ValueError(
                f"t_star is {self.t_star}; give one or more timesteps from 0 to 999 (the paper's: 10 250 500 750)."
            )
        if not self.stages or min(self.stages) < 1:
            raise ValueError(f"stages is {self.stages}; give one or more numbers of steps from 1 (bottom-up: 1 2 3 4).")
        if len(set(self.levels)) < len(self.levels) or min(self.levels, default=0) < 0:
            raise ValueError(f"levels is {self.levels}; give feature levels from 0, each once (none: all of them).")
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} cannot be split into {self.accumulation} equal parts.")

    def check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        """Refuse a word that is none of those allowed."""
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}.")

    def check_range(self, name: str, low: float, high: float | None = None) -> None:
        """Refuse a number outside its range."""
        value = getattr(self, name)
        if not value >= low or (high is not None and value > high):  # nan is refused too
            upper = "" if high is None else f" and at most {high}"
            raise ValueError(f"{name} is {value}; it must be at least {low}{upper}.")

    def outcome(self) -> dict[str, Any]:
        """What decides a run's numbers: all settings but its length and how often it is saved.

        Later settings are left out while they change nothing, so that runs from before they existed go on.
        """
        silent = {f.name for f in fields(self) if f.metadata["later"] and getattr(self, f.name) == f.default}
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("steps", "save_every") and f.name not in silent
        }
