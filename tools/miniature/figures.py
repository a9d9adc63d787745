"""Everything that is measured on a trained miniature; the model card shows it."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from matplotlib.figure import Figure

from nitro_lab.evaluation import eval_set as evaluation
from nitro_lab.evaluation.eval_set import EvalSet, sample_eval_set, through_vae
from nitro_lab.evaluation.metrics import factor_accuracy
from nitro_lab.mini.classifier import SceneClassifier
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS
from nitro_lab.plots.canvas import picture_grid
from tools.miniature.build import Miniature
from tools.miniature.stages import sample_counts

__all__ = ["EVAL_SEED", "Figures", "measure"]

EVAL_SEED = 0
_SHOWN = 8  # images
_LARGE = FACTORS["size"].index("large")

Figures = dict[str, dict[str, float]]


@torch.no_grad()
def measure(miniature: Miniature) -> tuple[Figures, Figure]:
    """Measure autoencoder, classifier, renders, teacher and student; also draw images of teacher and student."""
    recipe, pipe, classifier = miniature.recipe, miniature.pipe, miniature.classifier
    eval_set = evaluation.make_eval_set(pipe, classifier, "held-out", recipe.eval_images, EVAL_SEED)
    steps, guidance = recipe.eval_num_inference_steps, recipe.cache_guidance_scale
    images = {
        "renders": evaluation.render_again(eval_set, pipe, EVAL_SEED),
        "teacher": evaluation.sample_eval_set_cached(eval_set, pipe, steps, guidance, "evaluation of the teacher"),
        "regressed student": sample_eval_set(eval_set, miniature.student_pipe(), 1, progress="evaluation, student"),
    }
    eval_set = replace(eval_set, teacher_images=images["teacher"])
    columns = {name: evaluation.compute_metrics(eval_set, sampled) for name, sampled in images.items()}
    renders = render(eval_set.scenes, torch.Generator(pipe.device).manual_seed(EVAL_SEED))
    decoded = _accuracy(classifier, eval_set, lambda *arguments: through_vae(pipe, render(*arguments)))
    error = (renders - through_vae(pipe, renders)).square().mean().item()
    shown = {name: sampled[:_SHOWN] for name, sampled in images.items() if name != "renders"}
    grid = picture_grid(shown, eval_set.prompts[:_SHOWN], size=1.5)
    figures = {
        "autoencoder": {"PSNR in dB": 10 * math.log10(4 / error)},
        "classifier on renders": _accuracy(classifier, eval_set, render),
        "classifier on renders through the autoencoder": decoded,
        **columns,
    }
    return figures, grid


def _accuracy(classifier: SceneClassifier, eval_set: EvalSet, draw: Callable[..., torch.Tensor]) -> dict[str, float]:
    """Accuracy on new renders: each factor, each on large objects, and the count. `draw` takes `render`'s arguments."""
    generator = torch.Generator(eval_set.scenes.device).manual_seed(EVAL_SEED + 2)
    scenes, names = eval_set.scenes, tuple(FACTORS)
    predicted = classifier.predict(draw(scenes, generator)).factors
    large = scenes[:, 0] == _LARGE
    accuracy = factor_accuracy(predicted, scenes, names)
    on_large = factor_accuracy(predicted[large], scenes[large], names)
    counts = sample_counts(len(scenes), generator)
    predicted_counts = classifier.predict(draw(scenes, generator, counts)).counts
    accuracy["count"] = (predicted_counts == counts).double().mean().item()
    return accuracy | {f"{name}, large": value for name, value in on_large.items() if name != "size"}
