"""The reals of adversarial distillation: the teacher's many-step samples, made once and kept on disk."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from platformdirs import user_cache_path
from tqdm.auto import tqdm

from nitro_lab.sampling import Conditioning, encode_prompts, generate, latent_shape
from nitro_lab.snapshots import Snapshot

BATCH = 64


@dataclass(frozen=True)
class TeacherSamples:
    """N prompts, what the UNet is told of each, and the teacher's latents x0 (N, C, H, W); `empty` is one blank row."""

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
    folder: Path | None = None,
) -> TeacherSamples:
    """Samples of prompts drawn from a list; made with a progress bar the first time, and read from disk after that.

    The file's name is a hash of all that decides its content: the teacher's parts, prompts, and the arguments. A
    sampling that is cut goes on where it was.

    Args:
        folder: where the file is kept, by default the user's cache folder.
    """
    folder = folder or user_cache_path("nitro-lab")
    generator = torch.Generator().manual_seed(seed)
    drawn = [prompts[row] for row in torch.randint(len(prompts), (count,), generator=generator)]
    noise = torch.randn((count, *latent_shape(pipe)), generator=generator)
    settings = {"count": count, "steps": steps, "guidance": guidance, "seed": seed, "teacher": describe(pipe)}
    key = hashlib.blake2b(json.dumps([settings, drawn]).encode(), digest_size=8).hexdigest()
    x0 = torch.zeros_like(noise)
    snapshot = Snapshot(folder / f"teacher-{key}.safetensors", settings, x0=x0)
    starts = range(0, count, BATCH)
    work = snapshot.steps(len(starts), every=4)
    for step in tqdm(work, desc=f"{count} samples of the teacher", total=len(starts), leave=False):
        rows = slice(starts[step], starts[step] + BATCH)
        x0[rows] = generate(pipe, drawn[rows], noise[rows], steps, guidance, BATCH).to(x0)
    with torch.no_grad():
        told = [encode_prompts(pipe, drawn[start : start + BATCH]) for start in starts]
        empty = encode_prompts(pipe, [""])
    return TeacherSamples(drawn, join(told), empty, x0.to(pipe.unet.device))


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """One conditioning out of many."""
    return Conditioning(*(torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "pooled", "sizes")))


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
