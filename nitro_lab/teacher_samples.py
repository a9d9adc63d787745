"""What adversarial distillation keeps on disk: the teacher's many-step samples (the reals), and prompts as numbers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from nitro_lab.sampling import Conditioning, encode_prompts, generate, latent_shape
from nitro_lab.snapshots import Snapshot, replace_file

BATCH = 64


@dataclass(frozen=True)
class TeacherSamples:
    """M prompts and what the UNet is told of each; of the first N the teacher's latents x0 (N, C, H, W).

    `empty` is what it is told of no prompt, one row.
    """

    prompts: list[str]
    conditioning: Conditioning
    empty: Conditioning
    x0: torch.Tensor


def load_teacher_samples(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    count: int,
    steps: int,
    guidance: float,
    seed: int,
    captions: int = 0,
    folder: Path | None = None,
) -> TeacherSamples:
    """Samples of prompts drawn from a list; made with a progress bar the first time, and read from disk after that.

    The names of the two files are hashes of all that decides their content: the teacher's parts, the prompts, and the
    arguments. A sampling that is cut goes on where it was.

    Args:
        count: N, prompts that the teacher draws.
        captions: prompts without a sample that come after those.
        folder: where the files are kept, by default the user's cache folder.
    """
    folder = folder or user_cache_path("nitro-lab")
    generator = torch.Generator().manual_seed(seed)
    drawn = [prompts[row] for row in torch.randint(len(prompts), (count,), generator=generator)]
    noise = torch.randn((count, *latent_shape(pipe)), generator=generator)
    further = [prompts[row] for row in torch.randint(len(prompts), (captions,), generator=generator)]
    settings = {"count": count, "steps": steps, "guidance": guidance, "seed": seed, "teacher": describe(pipe)}
    x0 = torch.zeros_like(noise)
    snapshot = Snapshot(folder / f"teacher-{key_of(settings, drawn)}.safetensors", settings, x0=x0)
    starts = range(0, count, BATCH)
    work = snapshot.steps(len(starts), every=4)
    for step in tqdm(work, desc=f"{count} samples of the teacher", total=len(starts), leave=False):
        rows = slice(starts[step], starts[step] + BATCH)
        x0[rows] = generate(pipe, drawn[rows], noise[rows], steps, guidance, BATCH).to(x0)
    told = load_conditioning(pipe, ["", *drawn, *further], folder)
    blank = torch.zeros(1, dtype=torch.long)
    return TeacherSamples(drawn + further, told[1:], told[blank], x0.to(pipe.unet.device))


@torch.no_grad()
def load_conditioning(pipe: StableDiffusionXLPipeline, prompts: Sequence[str], folder: Path) -> Conditioning:
    """What the UNet is told of each prompt: from the text encoders the first time, and from disk after that."""
    encoders = {name: fingerprint(pipe.components[name]) for name in ("text_encoder", "text_encoder_2")}
    path = folder / f"prompts-{key_of(encoders, prompts)}.safetensors"
    if not path.exists():
        starts = tqdm(range(0, len(prompts), BATCH), desc=f"{len(prompts)} prompts", leave=False)
        parts = [encode_prompts(pipe, prompts[start : start + BATCH]) for start in starts]
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "pooled", "sizes")}
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda file: save_file({name: part.contiguous() for name, part in joined.items()}, file))
    return Conditioning(**load_file(path, device=str(pipe.unet.device)))


def key_of(settings: dict, prompts: Sequence[str]) -> str:
    """A hash that names a file."""
    return hashlib.blake2b(json.dumps([settings, list(prompts)]).encode(), digest_size=8).hexdigest()


def describe(pipe: StableDiffusionXLPipeline) -> dict[str, str]:
    """What a pipeline's latents come from: hashes of its weights, and its sampler."""
    parts = {name: fingerprint(pipe.components[name]) for name in ("text_encoder", "text_encoder_2", "unet")}
    return parts | {"scheduler": f"{type(pipe.scheduler).__name__} {pipe.scheduler.to_json_string()}"}


def fingerprint(module: torch.nn.Module) -> str:
    """A hash of all weights."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
