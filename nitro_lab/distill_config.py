"""Every setting of adversarial distillation, with its meaning."""

from dataclasses import dataclass, field, fields
from typing import Any

from nitro_lab.objectives import OBJECTIVES

MIXED_PRECISIONS = ("no", "bf16")


def setting(default: Any, meaning: str) -> Any:
    """A field of a frozen dataclass that explains itself; the command line shows the same words."""
    return field(default=default, metadata={"meaning": meaning})


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
    teacher_steps: int = setting(12, "steps of each")
    teacher_guidance: float = setting(3.0, "guidance of each; 1 or less is none")

    t_star: tuple[int, ...] = setting((10, 250, 500, 750), "noise levels at which critics look [F]")
    slots: int = setting(4, "heads in a cell of the pool (noise level × view × feature level)")
    per_cell: int = setting(4, "heads that a step draws from each cell of its noise level")
    refresh: float = setting(0.001, "share of all heads thrown away after each step; the paper's is 0.01")
    objective: str = setting("hinge", f"one of {', '.join(OBJECTIVES)}; the paper prints linear")
    width: int = setting(32, "channels inside a head")

    student_rate: float = setting(2e-5, "AdamW's learning rate of the student")
    critic_rate: float = setting(5e-3, "AdamW's learning rate of the heads")
    warm_up: int = setting(40, "first steps, for the critics alone; the student's rate then rises over as many")
    student_every: int = setting(1, "the student learns in every so many-th step, the critics in each")
    clip: float = setting(1.0, "largest norm of the student's gradient")
    ema: float = setting(0.99, "decay of the averaged student, which is the one that is kept")

    save_every: int = setting(50, "steps between checkpoints")
    mixed_precision: str = setting("no", f"one of {', '.join(MIXED_PRECISIONS)}; bf16 is for CUDA")
    compile: bool = setting(False, "torch.compile student and backbone; the first step then takes minutes")

    def __post_init__(self):
        """Refuse what cannot work, before anything is loaded."""
        self.check_choice("objective", tuple(OBJECTIVES))
        self.check_choice("mixed_precision", MIXED_PRECISIONS)
        for name in (
            "steps",
            "batch_size",
            "accumulation",
            "reals",
            "teacher_steps",
            "slots",
            "width",
            "student_every",
        ):
            self.check_range(name, 1)
        self.check_range("per_cell", 1, self.slots)
        self.check_range("refresh", 0, 1)
        self.check_range("ema", 0, 1)
        self.check_range("warm_up", 0)
        self.check_range("save_every", 1)
        for name in ("student_rate", "critic_rate", "clip"):
            self.check_range(name, 0)
        if not self.t_star or min(self.t_star) < 0 or max(self.t_star) > 999:
            raise ValueError(
                f"t_star is {self.t_star}; give one or more timesteps from 0 to 999 (the paper's: 10 250 500 750)."
            )
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} cannot be split into {self.accumulation} equal parts.")

    def check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        """Refuse a word that is none of those allowed."""
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}.")

    def check_range(self, name: str, low: float, high: float | None = None) -> None:
        """Refuse a number outside its range."""
        value = getattr(self, name)
        if value < low or (high is not None and value > high):
            upper = "" if high is None else f" and at most {high}"
            raise ValueError(f"{name} is {value}; it must be at least {low}{upper}.")

    def outcome(self) -> dict[str, Any]:
        """What decides a run's numbers: all settings but its length and how often it is saved."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("steps", "save_every")}
