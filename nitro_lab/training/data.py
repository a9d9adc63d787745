"""Training data on disk: samples of the teacher, which are the real samples, and embeddings of the prompts."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline as Pipeline
from platformdirs import user_cache_path
from torch import Tensor
from tqdm.auto import tqdm

from nitro_lab.checkpoint import hash_of, pipeline_hashes, read_or_make
from nitro_lab.mini.world import caption, split_scenes
from nitro_lab.models import find_source
from nitro_lab.sampling import PromptEmbeds, encode_prompts, latent_shape, sample_latents
from nitro_lab.training.config import DistillConfig
from nitro_lab.weights import first_line

__all__ = [
    "TeacherSamples",
    "load_teacher_samples",
    "read_prompts",
    "sample_prompts",
    "split_source",
    "teacher_sampling",
]

_BATCH = 64  # rows of a file, and so what an interruption costs
_NUM_SAMPLE_PROMPTS = 8
_SOURCES = "a text file with one prompt a line, file.csv:column, file.parquet:column, or owner/dataset:column"


@dataclass(frozen=True)
class TeacherSamples:
    """M prompts with their embeddings; for the first N, the teacher's latents x0 and their noise x_T (N, C, H, W).

    All are on the host. x0 and x_T are float32, the embeddings have the teacher's dtype; `empty_embeds` are those of
    the empty prompt, one row.
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
    hashes: dict[str, str] | None = None,
) -> TeacherSamples:
    """Sample the teacher for prompts drawn from a list, or read the samples from disk if they are there.

    The names of the two folders are hashes of all that their content depends on: the teacher's weights and scheduler,
    the prompts, and the arguments. An interrupted sampling continues where it stopped. Their size is printed before.

    Args:
        num_samples: N, prompts that the teacher samples.
        hashes: `pipeline_hashes` of the pipeline, if they are known.
        num_extra_prompts: prompts without a sample that follow those.
        folder: where they are kept, by default the user's cache folder.
    """
    folder = folder or user_cache_path("nitro-lab")
    generator = torch.Generator().manual_seed(seed)
    sampled = [prompts[row] for row in torch.randint(len(prompts), (num_samples,), generator=generator)]
    x_T = torch.randn((num_samples, *latent_shape(pipe)), generator=generator)
    extra = [prompts[row] for row in torch.randint(len(prompts), (num_extra_prompts,), generator=generator)]
    settings: dict[str, object] = {"count": num_samples, "steps": num_inference_steps, "guidance": guidance_scale}
    hashes, texts = hashes or pipeline_hashes(pipe), ["", *sampled, *extra]
    settings |= {"seed": seed, "teacher": hashes, "shape": latent_shape(pipe)}
    encoders = {name: hashes[name] for name in ("text_encoder", "text_encoder_2")}
    encoders["pixels"] = str(pipe.default_sample_size * pipe.vae_scale_factor)  # which add_time_ids depend on
    x0 = _Shards(folder / f"teacher-{hash_of(settings, sampled)}", "teacher samples", num_samples)
    embeds = _Shards(folder / f"embeds-{hash_of(encoders, texts)}", "prompts", len(texts))
    if not (x0.complete and embeds.complete):
        size = x_T.numel() * pipe.unet.dtype.itemsize
        width = pipe.tokenizer.model_max_length * pipe.unet.config.cross_attention_dim  # the rest is small
        size += len(texts) * width * pipe.text_encoder_2.dtype.itemsize
        what = f"{num_samples:,} teacher samples and {len(texts):,} prompts: {size / 1e6:,.0f} MB in {folder}"
        tqdm.write(what, file=sys.stderr)

    def sample(rows: slice) -> dict[str, Tensor]:  # with new noise in each shard, if the teacher adds any
        arguments = sampled[rows], x_T[rows], num_inference_steps, guidance_scale
        return {"x0": sample_latents(pipe, *arguments, seed=seed + rows.start)}

    @torch.no_grad()
    def encode(rows: slice) -> dict[str, Tensor]:
        return vars(encode_prompts(pipe, texts[rows]))

    latents, encoded = x0.load(sample)["x0"], PromptEmbeds(**embeds.load(encode))
    return TeacherSamples(sampled + extra, encoded[1:], encoded[:1], latents.float(), x_T)


class _Shards:
    """Rows of tensors in a folder, `_BATCH` of them to a file."""

    def __init__(self, folder: Path, what: str, count: int):
        self.what, self.count = what, count
        self.files = {start: folder / f"{start:07}.safetensors" for start in range(0, count, _BATCH)}

    @property
    def complete(self) -> bool:
        """Whether all rows are on disk."""
        return all(file.exists() for file in self.files.values())

    def load(self, make: Callable[[slice], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make the missing files; return all rows, on the host."""
        files = tqdm(self.files.items(), desc=self.what, leave=False, disable=self.complete)
        rows: dict[str, Tensor] = {}
        for start, file in files:
            for name, x in read_or_make(file, partial(make, slice(start, start + _BATCH))).items():
                rows.setdefault(name, x.new_empty(self.count, *x.shape[1:]))[start : start + _BATCH] = x
        return rows


def teacher_sampling(config: DistillConfig) -> tuple[int, float]:
    """Number of steps and guidance scale of the teacher's samples: those of the settings, else the teacher's own."""
    steps, guidance = find_source(config.teacher).sampling
    given = config.teacher_num_inference_steps, config.teacher_guidance_scale
    return steps if given[0] is None else given[0], guidance if given[1] is None else given[1]


def split_source(prompts: str) -> tuple[str, str]:
    """Split "file.csv:caption" into the source and its column, which is empty for a text file."""
    source, _, column = prompts.rpartition(":")
    return (prompts, "") if Path(prompts).is_file() or not source else (source, column)


def read_prompts(config: DistillConfig) -> list[str]:
    """The prompts of a text file, a column or a dataset, or the training captions of the miniature.

    Raises a ValueError that says why there are none.
    """
    if not config.prompts:
        return [caption(scene) for scene in split_scenes()[0]]
    source, column = split_source(config.prompts)
    if not column and source.endswith((".csv", ".parquet")):
        raise ValueError(f"prompts is {config.prompts!r}, without a column. Give {_SOURCES}.")
    try:
        lines = _read_column(source, column) if column else Path(source).read_text("utf-8-sig").split("\n")
    except ImportError as error:
        package = "pyarrow" if source.endswith(".parquet") else "datasets"
        raise ValueError(f"prompts is {config.prompts!r}, which needs {package}: `pip install {package}`.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text ({error}); convert it to UTF-8.") from error
    except Exception as error:  # each library has its own
        problem = f"prompts is {config.prompts!r}, which cannot be read ({first_line(error)})"
        raise ValueError(f"{problem}. Give {_SOURCES}.") from error
    prompts = [line.strip() for line in lines if isinstance(line, str) and line.strip()]
    if not prompts or any("\0" in prompt for prompt in prompts):
        problem = "is not UTF-8 text (it has zero bytes); convert it to UTF-8" if prompts else "has no prompts"
        raise ValueError(f"{config.prompts} {problem}. Give {_SOURCES}.")
    return prompts


def _read_column(source: str, column: str) -> Sequence[Any]:
    """A column of a CSV or Parquet file, or of the training split of a dataset, in a folder or on the hub."""
    if source.endswith((".csv", ".parquet")):
        options: Any = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
        table = pd.read_csv(source, **options) if source.endswith(".csv") else pd.read_parquet(source)
        if column not in table:
            raise ValueError(f"it has no column {column}, but {', '.join(map(str, table))}")
        return list(table[column])
    datasets = import_module("datasets")
    if (Path(source) / "state.json").exists():
        return datasets.load_from_disk(source)[column]
    return datasets.load_dataset(source, split="train")[column]


def sample_prompts(config: DistillConfig) -> list[str]:
    """Prompts of a run's sample images: the first of the prompt file, or held-out captions of the miniature."""
    if config.prompts:
        return read_prompts(config)[:_NUM_SAMPLE_PROMPTS]
    scenes = split_scenes()[1]
    return [caption(scene) for scene in scenes[:: len(scenes) // _NUM_SAMPLE_PROMPTS][:_NUM_SAMPLE_PROMPTS]]
