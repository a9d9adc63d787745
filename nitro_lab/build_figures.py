"""Everything that is measured on a finished miniature; the model card shows it."""

import math
from collections.abc import Callable

import torch

from nitro_lab.evaluate import caption_accuracy
from nitro_lab.exam import Exam, fresh_renders, mark, set_exam, sit, through_vae
from nitro_lab.gap import tell_apart
from nitro_lab.mini.build import Miniature
from nitro_lab.mini.judge import Judge
from nitro_lab.mini.render import render
from nitro_lab.mini.teacher_cache import load_pairs
from nitro_lab.mini.train_judge import draw_counts
from nitro_lab.mini.world import FACTORS, caption, draw_scenes, split_scenes
from nitro_lab.sampling import decode, generate

EXAM_SEED = 0
LARGE = FACTORS["size"].index("large")

Figures = dict[str, dict[str, float]]
Draw = Callable[..., torch.Tensor]  # the arguments of `render`


@torch.no_grad()
def measure(miniature: Miniature) -> Figures:
    """Figures by heading: the autoencoder, the judge, the exam's columns, and the gap between student and teacher."""
    recipe, pipe = miniature.recipe, miniature.pipe
    exam = set_exam(pipe, miniature.judge, "held-out", recipe.exam_images, EXAM_SEED)
    teacher = sit(exam, pipe, recipe.exam_steps, recipe.cache_guidance, title="exam of the teacher")
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
            "told apart by a fresh network": gap(miniature, teacher, student),
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


def gap(miniature: Miniature, teacher: torch.Tensor, student: torch.Tensor) -> float:
    """How well a fresh network tells the exam's images apart, after other captions and other noise."""
    recipe, pipe = miniature.recipe, miniature.pipe
    generator = torch.Generator(pipe.device).manual_seed(EXAM_SEED + 3)
    _, _, x0 = load_pairs(miniature.file("cache"), pipe.device)
    scenes = draw_scenes(split_scenes()[0], recipe.gap_images, generator)
    noise = torch.randn(x0[: recipe.gap_images].shape, generator=generator, device=pipe.device)
    fakes = generate(miniature.student_pipe(), [caption(scene) for scene in scenes], noise, 1, title="gap")
    with torch.enable_grad():
        learned_from = decode(pipe, x0[: recipe.gap_images]), decode(pipe, fakes)
        return tell_apart(learned_from, (teacher, student), recipe.gap_steps)
