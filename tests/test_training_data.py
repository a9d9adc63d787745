"""The teacher's samples on disk: made once, found again, resumed, and never those of another teacher or setting."""

import copy
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from tiny_training import tiny

from nitro_lab.sampling import encode_prompts, latent_shape, sample_latents
from nitro_lab.training import data
from nitro_lab.training.data import load_teacher_samples, read_prompts, sample_prompts
from nitro_lab.weights import CheckpointError

PROMPTS = ["a small blue ring", "a large solid red star in the center on a night background", "a green square"]
ARGUMENTS = {"prompts": PROMPTS, "num_samples": 5, "num_inference_steps": 2, "guidance_scale": 1.0, "seed": 0}


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Batches of one, and how many samples each call of the teacher makes."""
    made: list[int] = []

    def counted(pipe, prompts, *args, **options):
        made.append(len(prompts))
        return sample_latents(pipe, prompts, *args, **options)

    monkeypatch.setattr(data, "_BATCH", 1)
    monkeypatch.setattr(data, "sample_latents", counted)
    return made


def load(pipe, folder, **changes):
    return load_teacher_samples(pipe, **ARGUMENTS | changes, folder=folder)


def test_samples_are_the_teachers(untrained_pipeline, tmp_path, calls):
    samples = load(untrained_pipeline, tmp_path)
    assert set(samples.prompts) <= set(PROMPTS)
    with torch.no_grad():
        wanted = vars(encode_prompts(untrained_pipeline, samples.prompts))
        empty = vars(encode_prompts(untrained_pipeline, [""]))
    for name, value in wanted.items():
        torch.testing.assert_close(getattr(samples.embeds, name), value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(getattr(samples.empty_embeds, name), empty[name])
    generator = torch.Generator().manual_seed(0)
    torch.randint(len(PROMPTS), (5,), generator=generator)
    x_T = torch.randn((5, *latent_shape(untrained_pipeline)), generator=generator)
    expected = sample_latents(untrained_pipeline, samples.prompts, x_T, 2, 1.0)
    torch.testing.assert_close(samples.x0, expected, rtol=1e-3, atol=1e-4)


def test_samples_are_found_again_in_the_users_cache(untrained_pipeline, tmp_path, calls, monkeypatch):
    monkeypatch.setattr(data, "user_cache_path", lambda name: tmp_path / name)
    first, again, more = (load(untrained_pipeline, None, num_extra_prompts=extra) for extra in (0, 0, 3))
    assert calls == [1] * 5
    assert len(list((tmp_path / "nitro-lab").glob("teacher-*"))) == 1
    assert torch.equal(first.x0, again.x0)
    assert torch.equal(first.x0, more.x0)
    assert first.prompts == again.prompts == more.prompts[:5]
    assert len(more.prompts) == len(more.embeds.prompt_embeds) == 8


def test_interrupted_and_resumed_is_the_same(untrained_pipeline, tmp_path, calls, monkeypatch):
    whole = load(untrained_pipeline, tmp_path / "whole")
    counted = data.sample_latents

    def interrupted(*args, **options):
        if len(calls) == 5 + 4:
            raise KeyboardInterrupt
        return counted(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(data, "sample_latents", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(untrained_pipeline, tmp_path / "cut")
    assert torch.equal(whole.x0, load(untrained_pipeline, tmp_path / "cut").x0)
    assert calls == [1] * 10


def test_another_setting_or_teacher_is_another_file(untrained_pipeline, tmp_path, calls):
    first, changes = load(untrained_pipeline, tmp_path), {"num_inference_steps": 1, "guidance_scale": 3.0, "seed": 1}
    others = [load(untrained_pipeline, tmp_path, **{name: value}) for name, value in changes.items()]
    others += [
        load(untrained_pipeline, tmp_path, num_samples=4),
        load(untrained_pipeline, tmp_path, prompts=PROMPTS[1:]),
    ]
    untrained_pipeline.scheduler = DDIMScheduler.from_config(untrained_pipeline.scheduler.config)
    load(untrained_pipeline, tmp_path)
    assert len(list(tmp_path.glob("teacher-*"))) == 7
    assert not any(torch.equal(first.x0, other.x0) for other in others)


def test_prompt_files(tmp_path):
    file = tmp_path / "prompts.txt"
    config = tiny(prompts=str(file))
    file.write_bytes("\ufeffa small blue ring\n\n  a grün square \n".encode())
    assert read_prompts(config) == ["a small blue ring", "a grün square"]
    file.write_bytes("a blue ring\r\na\u2028b\r".encode())
    assert read_prompts(config) == ["a blue ring", "a\u2028b"]
    for content in (b"", b"\n", "a ring".encode("utf-16"), "a ring".encode("utf-16-le"), "grün".encode("latin-1")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"prompts\.txt"):
            read_prompts(config)
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_prompts(tiny(prompts=str(tmp_path)))


def columns(folder: Path, name: str, column: str) -> str:
    """The prompts as a column of a file or dataset in the folder, beside another column."""
    table = pd.DataFrame({"id": [1, 2, 3, 4], "caption": ["a small blue ring", " NA, a grün square ", None, "1"]})
    if name == "a.csv":
        table.to_csv(folder / name, index=False)
    elif name == "a.parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(folder / name)
    elif name == "saved":
        rows = table.fillna("").to_dict("records")
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(folder / name)
    else:
        pytest.importorskip("datasets")
        (folder / name).mkdir()
        table.to_json(folder / name / "train.jsonl", orient="records", lines=True)
    return f"{folder / name}:{column}"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "saved", "folder"])
def test_prompts_of_a_column(tmp_path, name):
    config = tiny(prompts=columns(tmp_path, name, "caption"))
    assert read_prompts(config) == ["a small blue ring", "NA, a grün square", "1"]
    assert sample_prompts(config) == read_prompts(config)
    for wrong in (f"{tmp_path / name}:captions", f"{tmp_path / name}"):
        with pytest.raises(ValueError, match=rf"prompts is .*{name}.*file\.parquet:column"):
            read_prompts(tiny(prompts=wrong))


@pytest.mark.parametrize(("prompts", "package"), [("a.parquet:caption", "pyarrow"), ("owner/name:caption", "datasets")])
def test_packages_that_are_not_installed(prompts, package, monkeypatch):
    for name in ("pyarrow", "fastparquet", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"{prompts}.*pip install {package}"):
        read_prompts(tiny(prompts=prompts))


def test_samples_of_a_half_precision_teacher_are_half_as_large(untrained_pipeline, tmp_path):
    sizes = []
    for dtype in (torch.float32, torch.float16):
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            setattr(untrained_pipeline, name, copy.deepcopy(getattr(untrained_pipeline, name)).to(dtype))
        samples = load(untrained_pipeline, tmp_path / str(dtype))
        assert (samples.x0.dtype, samples.embeds.prompt_embeds.dtype) == (torch.float32, dtype)
        assert {x.device.type for x in (samples.x0, samples.x_T, *vars(samples.embeds).values())} == {"cpu"}
        sizes.append(sum(file.stat().st_size for file in (tmp_path / str(dtype)).glob("*/*.safetensors")))
    assert sizes[1] == pytest.approx(sizes[0] / 2, abs=600)


def test_a_teacher_that_adds_noise_adds_other_noise_in_each_batch(untrained_pipeline, tmp_path, calls):
    untrained_pipeline.scheduler = LCMScheduler.from_config(untrained_pipeline.scheduler.config)
    first, again, other = (load(untrained_pipeline, tmp_path / str(n), seed=n // 2) for n in range(3))
    assert torch.equal(first.x0, again.x0)
    expected = [
        sample_latents(untrained_pipeline, [prompt], x_T[None], 2, 1.0, seed=row)
        for row, (prompt, x_T) in enumerate(zip(first.prompts, first.x_T, strict=False))
    ]
    assert torch.equal(first.x0, torch.cat(expected))
    assert not torch.equal(first.x0, other.x0)


def test_the_size_is_said_before_it_is_made_and_only_then(untrained_pipeline, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(data, "sample_latents", lambda pipe, prompts, x_T, *args, **options: x_T)
    for said in (True, False):
        load(untrained_pipeline, tmp_path, num_samples=1000, num_extra_prompts=200)
        found = re.findall(r"1,000 teacher samples and 1,201 prompts: (\d+) MB in (.*)", capfd.readouterr().err)
        size = sum(file.stat().st_size for file in tmp_path.glob("*/*.safetensors"))
        assert found == ([(f"{size / 1e6:.0f}", str(tmp_path))] if said else [])


@pytest.mark.parametrize("content", [b"", b"half of a file" * 9])
@pytest.mark.parametrize("kind", ["teacher", "embeds"])
def test_a_damaged_file_of_the_cache_is_named(untrained_pipeline, tmp_path, kind, content):
    first = load(untrained_pipeline, tmp_path)
    (file,) = tmp_path.glob(f"{kind}-*/*.safetensors")
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file.name}.*Delete"):
        load(untrained_pipeline, tmp_path)
    file.unlink()
    assert torch.equal(load(untrained_pipeline, tmp_path).x0, first.x0)


def test_a_cache_that_cannot_be_written_is_named(untrained_pipeline, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="home"):
        load(untrained_pipeline, tmp_path / "home" / "cache")
