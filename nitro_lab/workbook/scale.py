"""How much work the notebooks do: one place for all of their sizes, at full scale and for the tests."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = "NITRO_LAB_SCALE"


@dataclass(frozen=True)
class Scale:
    """Sizes of one scale. Full scale is chosen for two slow cores; a GPU is done in a fraction of the time."""

    shown: int  # pictures side by side in a strip

    # 01, the scheduler: quality over the shift
    sweep_shifts: tuple[int, ...]
    sweep_images: int  # for each shift
    sweep_groups: int  # parts of those images, measured one by one for the error bars
    error_levels: tuple[int, ...]  # told timesteps at which an error is added to ε

    # 02, inference
    exam_images: int  # captions that teacher and student sit; the distances need more than five
    call_repeats: int  # timed calls of a pipeline, for each bar
    batch_sizes: tuple[int, ...]
    throughput_repeats: int  # timed calls for each batch size

    # 03, adversarial training
    dice_steps: int  # of a pool that only draws and refreshes
    critic_steps: int  # of the live training
    critic_warm_up: int  # steps of the critics alone
    critic_batch: int  # images a step
    critic_reals: int  # samples of the teacher
    critic_captions: int  # further prompts, that only the student draws
    critic_teacher_steps: int  # of each of them
    damaged_images: int  # for each damage; a multiple of the five textures
    critic_exam_images: int  # captions of the exam before and after

    # 04, bottom-up refinement
    refined_images: int  # captions whose every step is looked at
    timed_images: int  # of a batch whose time is taken

    # 05, the discriminator workbench
    idea_steps: int  # of the reader's own critics
    idea_warm_up: int  # steps of the critics alone, in every run of the notebook
    idea_batch: int  # images a step
    idea_reals: int  # samples of the teacher
    idea_captions: int  # further prompts, that only the student draws
    idea_teacher_steps: int  # of each of them
    compared_steps: int  # of each run
    compared_seeds: int  # runs of each variant
    compared_images: int  # of each exam; at least ten
    bench_steps: int  # of each of the two variants


SCALES = {
    "full": Scale(
        shown=6,
        sweep_shifts=(62, 125, 187, 250, 375, 500, 625, 750, 1000),
        sweep_images=600,
        sweep_groups=3,
        error_levels=(999, 749, 499, 249, 124, 62),
        exam_images=256,
        call_repeats=9,
        batch_sizes=(1, 2, 4, 8, 16, 32, 64),
        throughput_repeats=5,
        dice_steps=200,
        critic_steps=400,
        critic_warm_up=80,
        critic_batch=16,
        critic_reals=512,
        critic_captions=2048,
        critic_teacher_steps=12,
        damaged_images=60,
        critic_exam_images=128,
        refined_images=192,
        timed_images=16,
        idea_steps=20,
        idea_warm_up=4,
        idea_batch=8,
        idea_reals=128,
        idea_captions=512,
        idea_teacher_steps=8,
        compared_steps=16,
        compared_seeds=2,
        compared_images=64,
        bench_steps=10,
    ),
    "smoke": Scale(
        shown=2,
        sweep_shifts=(250, 500),
        sweep_images=8,
        sweep_groups=2,
        error_levels=(999, 249),
        exam_images=8,
        call_repeats=2,
        batch_sizes=(1, 2, 4),
        throughput_repeats=2,
        dice_steps=10,
        critic_steps=4,
        critic_warm_up=1,
        critic_batch=4,
        critic_reals=8,
        critic_captions=8,
        critic_teacher_steps=2,
        damaged_images=5,
        critic_exam_images=8,
        refined_images=8,
        timed_images=2,
        idea_steps=2,
        idea_warm_up=1,
        idea_batch=2,
        idea_reals=8,
        idea_captions=8,
        idea_teacher_steps=1,
        compared_steps=2,
        compared_seeds=1,
        compared_images=12,
        bench_steps=2,
    ),
}


def choose_scale(environment: Mapping[str, str] = os.environ) -> Scale:
    """The scale that the environment variable NITRO_LAB_SCALE names; "full" without it.

    Raises:
        ValueError: if it names none.
    """
    name = environment.get(VARIABLE, "full")
    if name not in SCALES:
        raise ValueError(f"{VARIABLE} is {name!r}; it must be one of {', '.join(SCALES)}. Unset it for full scale.")
    return SCALES[name]


SCALE = choose_scale()
