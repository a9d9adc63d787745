"""Training data on disk: samples of the teacher, which are the real samples, and embeddings of the prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline as Pipeline
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from nitro_lab.checkpoint import Checkpoint, atomic_write, hash_of, pipeline_hashes, weights_hash
from nitro_lab.mini.world import caption, split_scenes
from nitro_lab.sampling import PromptEmbeds, encode_prompts, latent_shape, sample_latents
from nitro_lab.training.config import DistillConfig
from nitro_lab.weights import reading

__all__ = ["TeacherSamples", "load_teacher_samples", "read_prompts", "sample_prompts"]

_BATCH = 64
_NUM_SAMPLE_PROMPTS = 8


@dataclass(frozen=True)
class TeacherSamples:
    """M prompts with their embeddings; for the first N, the teacher's latents x0 and their noise x_T (N, C, H, W).

    `empty_embeds` are the embeddings of the empty prompt, one row.
    """

    prompts: list[str]
    embeds: PromptEmbeds
    empty_embeds: PromptEmbeds
    x0: Tensor
    x_T: Tensor  # noqa: N815 (the paper's symbol)


def load_teacher_samples(
    pipe: Pipeline,
    prompts: Sequence[str],
    num_samples: int,
    num_inference_steps: int,
    guidance_scale: float,
    seed: int,
    num_extra_prompts: int = 0,
    folder: Path | None = None,
) -> TeacherSamples:
    """Sample the teacher for prompts drawn from a list, or read the samples from disk if they are there.

    The names of the two files are hashes of all that their content depends on: the teacher's weights and scheduler,
    the prompts, and the arguments. An interrupted sampling continues where it stopped.

    Args:
        num_samples: N, prompts that the teacher samples.
        num_extra_prompts: prompts without a sample that follow those.
        folder: where the files are kept, by default the user's cache folder.
    """
    folder = folder or user_cache_path("nitro-lab")
    generator = torch.Generator().manual_seed(seed)
    sampled = [prompts[row] for row in torch.randint(len(prompts), (num_samples,), generator=generator)]
    x_T = torch.randn((num_samples, *latent_shape(pipe)), generator=generator)
    extra = [prompts[row] for row in torch.randint(len(prompts), (num_extra_prompts,), generator=generator)]
    settings: dict[str, object] = {"count": num_samples, "steps": num_inference_steps, "guidance": guidance_scale}
    settings |= {"seed": seed, "teacher": pipeline_hashes(pipe)}
    x0 = torch.zeros_like(x_T)
    checkpoint = Checkpoint(folder / f"teacher-{hash_of(settings, sampled)}.safetensors", settings, x0=x0)
    starts = range(0, num_samples, _BATCH)
    todo = checkpoint.steps(len(starts), every=4)
    for step in tqdm(todo, desc=f"{num_samples} teacher samples", total=len(starts), leave=False):
        rows = slice(starts[step], starts[step] + _BATCH)
        sampler = (num_inference_steps, guidance_scale, _BATCH)
        x0[rows] = sample_latents(pipe, sampled[rows], x_T[rows], *sampler).to(x0)
    embeds = _load_embeds(pipe, ["", *sampled, *extra], folder)
    return TeacherSamples(sampled + extra, embeds[1:], embeds[:1], *(x.to(pipe.unet.device) for x in (x0, x_T)))


@torch.no_grad()
def _load_embeds(pipe: Pipeline, prompts: Sequence[str], folder: Path) -> PromptEmbeds:
    """Embeddings of all prompts: from the text encoders the first time, then from disk."""
    encoders = {name: weights_hash(pipe.components[name]) for name in ("text_encoder", "text_encoder_2")}
    path = folder / f"embeds-{hash_of(encoders, prompts)}.safetensors"
    if not path.exists():
        starts = tqdm(range(0, len(prompts), _BATCH), desc=f"{len(prompts)} prompts", leave=False)
        batches = [vars(encode_prompts(pipe, prompts[start : start + _BATCH])) for start in starts]
        joined = {name: torch.cat([batch[name] for batch in batches]).contiguous() for name in batches[0]}
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda file: save_file(joined, file))
    with reading(path):
        return PromptEmbeds(**load_file(path, device=str(pipe.unet.device)))


def read_prompts(config: DistillConfig) -> list[str]:
    """The lines of the prompt file (else a ValueError says why there are none), or the training captions."""
    if not config.prompts:
        return [caption(scene) for scene in split_scenes()[0]]
    path = Path(config.prompts)
    if not path.is_file():
        raise ValueError(f"prompts is {path}, which is not a file; give a text file with one prompt a line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # with or without a byte-order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); convert it to UTF-8.") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts or any("\0" in prompt for prompt in prompts):
        problem = "is not UTF-8 text (it has zero bytes); convert it to UTF-8" if prompts else "has no prompts"
        raise ValueError(f"{path} {problem}, and write one prompt a line.")
    return prompts


def sample_prompts(config: DistillConfig) -> list[str]:
    """Prompts of a run's sample images: the first of the prompt file, or held-out captions of the miniature."""
    if config.prompts:
        return read_prompts(config)[:_NUM_SAMPLE_PROMPTS]
    scenes = split_scenes()[1]
    return [caption(scene) for scene in scenes[:: len(scenes) // _NUM_SAMPLE_PROMPTS][:_NUM_SAMPLE_PROMPTS]]
