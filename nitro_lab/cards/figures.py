"""Everything that is measured on a finished miniature; the model card shows it."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from nitro_lab.evaluate import caption_accuracy
from nitro_lab.exam import Exam, fresh_renders, mark, set_exam, sit, sit_once, through_vae
from nitro_lab.mini.build import Miniature
from nitro_lab.mini.judge import Judge
from nitro_lab.mini.render import render
from nitro_lab.mini.teacher_cache import draw_twice, load_pairs
from nitro_lab.mini.train_judge import draw_counts
from nitro_lab.mini.world import FACTORS, caption, draw_scenes, split_scenes
from nitro_lab.sampling import decode, generate
from nitro_lab.studies.gap import tell_apart

EXAM_SEED = 0
LARGE = FACTORS["size"].index("large")

Figures = dict[str, dict[str, float]]
Draw = Callable[..., torch.Tensor]  # the arguments of `render`


@torch.no_grad()
def measure(miniature: Miniature) -> Figures:
    """Figures by heading: the autoencoder, the judge, the exam's columns, and the gap between student and teacher."""
    recipe, pipe = miniature.recipe, miniature.pipe
    exam = set_exam(pipe, miniature.judge, "held-out", recipe.exam_images, EXAM_SEED)
    teacher = sit_once(exam, pipe, recipe.exam_steps, recipe.cache_guidance, "exam of the teacher")
    student = sit(exam, miniature.student_pipe(), 1, title="exam of the student")
    columns = {
        "renders": mark(exam, fresh_renders(exam, pipe, EXAM_SEED)),
        "teacher": mark(exam, teacher),
        "regressed student": mark(exam, student),
    }
    return {
        "autoencoder": {"PSNR in dB": psnr(miniature, exam)},
        "judge on renders": judge_accuracy(miniature.judge, exam, render),
        "judge on renders through the autoencoder": judge_accuracy(
            miniature.judge, exam, lambda *drawn: through_vae(pipe, render(*drawn))
        ),
        **columns,
        "gap": {
            "told apart by a fresh network": gap(miniature, exam),
            "FD of the student over the teacher's": columns["regressed student"]["FD"] / columns["teacher"]["FD"],
        },
    }


def psnr(miniature: Miniature, exam: Exam) -> float:
    """Peak signal-to-noise ratio of the autoencoder on renders of the exam's scenes, in decibels."""
    pipe = miniature.pipe
    pictures = render(exam.scenes, torch.Generator(pipe.device).manual_seed(EXAM_SEED))
    return 10 * math.log10(4 / (pictures - through_vae(pipe, pictures)).square().mean().item())


def judge_accuracy(judge: Judge, exam: Exam, draw: Draw) -> dict[str, float]:
    """Shares that the judge gets right on fresh pictures: each factor, each on large objects, and the count."""
    generator = torch.Generator(exam.scenes.device).manual_seed(EXAM_SEED + 2)
    guesses = judge.look(draw(exam.scenes, generator)).factors
    large = exam.scenes[:, 0] == LARGE
    shares = caption_accuracy(guesses, exam.scenes, tuple(FACTORS))
    on_large = caption_accuracy(guesses[large], exam.scenes[large], tuple(FACTORS))
    counts = draw_counts(len(exam.scenes), generator)
    seen = judge.look(draw(exam.scenes, generator, counts)).counts
    shares["count"] = (seen == counts).double().mean().item()
    return shares | {f"{name}, large": share for name, share in on_large.items() if name != "size"}


def gap(miniature: Miniature, exam: Exam) -> float:
    """How well a fresh network tells student and teacher apart on the exam's captions, after others and other noise.

    The teacher draws as it did for the cache in both, so that there is nothing but the student to be seen.
    """
    recipe, pipe = miniature.recipe, miniature.pipe
    generator = torch.Generator(pipe.device).manual_seed(EXAM_SEED + 3)
    _, _, x0 = load_pairs(miniature.file("cache"), pipe.device)
    scenes = draw_scenes(split_scenes()[0], len(x0), generator)
    noise = torch.randn(x0.shape, generator=generator, device=pipe.device)
    fakes = generate(miniature.student_pipe(), [caption(scene) for scene in scenes], noise, 1, title="gap")
    unseen = replace(exam, scenes=exam.scenes[: recipe.gap_images], noise=exam.noise[: recipe.gap_images])
    teacher = decode(pipe, draw_twice(recipe, pipe, unseen.prompts, unseen.noise, generator))
    student = sit(unseen, miniature.student_pipe(), 1)
    with torch.enable_grad():
        return tell_apart((decode(pipe, x0), decode(pipe, fakes)), (teacher, student), recipe.gap_steps)
