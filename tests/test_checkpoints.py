"""Loading from folders and files: what comes out is exact, and what does not fit is refused with the next step."""

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_sdxl import make_repository, write_student

from nitro_lab import TimestepShiftLCMScheduler, load_pipeline
from nitro_lab.checkpoints import MODELS
from nitro_lab.mini import parts
from nitro_lab.mini.tokenizer import UnknownWordWarning

PROMPT = "a large striped red star at the top on a sunset background"
SDXL_UNET = {  # unet/config.json of stabilityai/stable-diffusion-xl-base-1.0, without the class's defaults
    "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module")
def models(untrained_parts: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mini/`, laid out as the shipped miniature is, and `sdxl/`, as the real one, with students beside them."""
    folder = tmp_path_factory.mktemp("models")
    options = {"force_zeros_for_empty_prompt": False, "add_watermarker": False}
    pipe = StableDiffusionXLPipeline(**untrained_parts, scheduler=parts.make_scheduler(), **options)
    pipe.save_pretrained(folder / "mini")
    student = {name: value.flip(0).half().contiguous() for name, value in pipe.unet.state_dict().items()}
    for name in ("critics_unet", "regressed_unet"):
        save_file(student, folder / "mini" / f"{name}.safetensors")
    make_repository(folder / "sdxl")
    write_student(folder / "student.safetensors")
    return folder


@pytest.fixture
def mini(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The untrained miniature under the names of the shipped one."""
    for name in ("mini", "mini-teacher"):
        student = MODELS[name].unet and str(models / "mini" / Path(MODELS[name].unet).name)
        monkeypatch.setitem(MODELS, name, replace(MODELS[name], base=str(models / "mini"), unet=student))
    return models / "mini"


def load(model: str | Path, **options) -> StableDiffusionXLPipeline:
    """On the CPU, wherever the tests run, without a progress bar."""
    pipe = load_pipeline(model, device="cpu", **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_same(unet: UNet2DConditionModel, weights: dict[str, torch.Tensor]) -> None:
    """Bit for bit, in the UNet's own type."""
    state = unet.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(value, weights[name].to(value.dtype)) for name, value in state.items())


@pytest.mark.filterwarnings("error")
def test_student_by_name(mini: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = load("mini")
    assert_same(pipe.unet, load_file(mini / "regressed_unet.safetensors"))
    assert {pipe.unet.dtype, pipe.vae.dtype} == {torch.float32}
    assert not pipe.unet.training
    assert all(weight.requires_grad for weight in pipe.unet.parameters())
    pipe.scheduler.set_timesteps(4)
    assert pipe.scheduler.timesteps.tolist() == [249, 187, 124, 62]
    assert pipe.scheduler.true_timesteps.tolist() == [999, 749, 499, 249]
    assert pipe(PROMPT, num_inference_steps=1, guidance_scale=0).images[0].size == (64, 64)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_teacher_by_name(mini: Path) -> None:
    pipe = load("mini-teacher")
    assert_same(pipe.unet, load_file(mini / "unet" / "diffusion_pytorch_model.safetensors"))
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"


@pytest.mark.usefixtures("mini")
def test_unknown_word_is_named_and_the_image_made() -> None:
    pipe = load("mini")
    with pytest.warns(UnknownWordWarning, match="zebra"):
        assert len(pipe("a red zebra", num_inference_steps=1, guidance_scale=0).images) == 1


@pytest.mark.usefixtures("mini")
def test_saved_pipeline_comes_back(tmp_path: Path) -> None:
    pipe = load("mini", shifted_timestep=500)
    pipe.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert_same(again.unet, pipe.unet.state_dict())
    assert isinstance(again.scheduler, TimestepShiftLCMScheduler)
    saved, loaded = ({k: v for k, v in p.scheduler.config.items() if k[0] != "_"} for p in (pipe, again))
    assert loaded == saved
    images = [
        p(PROMPT, num_inference_steps=2, guidance_scale=0, generator=torch.Generator().manual_seed(1)).images[0]
        for p in (pipe, again)
    ]
    assert images[0] == images[1]


def test_another_student_and_shift(models: Path) -> None:
    pipe = load(models / "sdxl", unet=models / "student.safetensors", shifted_timestep=500)
    assert_same(pipe.unet, load_file(models / "student.safetensors"))
    assert pipe.scheduler.config.shifted_timestep == 500
    assert type(load(models / "sdxl", unet=models / "student.safetensors").scheduler).__name__.startswith("Euler")


def test_only_half_precision_files(models: Path, tmp_path: Path) -> None:
    folder = copytree(models / "sdxl", tmp_path / "half")
    for part in ("text_encoder", "unet"):
        next((folder / part).glob("*model.safetensors")).unlink()
    pipe = load(folder)
    half = load_file(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert_same(pipe.unet, half)
    assert {pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype} == {torch.float32}


def test_shards(models: Path, tmp_path: Path) -> None:
    folder = copytree(models / "sdxl", tmp_path / "shards")
    whole = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    UNet2DConditionModel.from_pretrained(models / "sdxl", subfolder="unet").save_pretrained(
        folder / "unet", max_shard_size="200KB"
    )
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    assert_same(load(folder).unet, whole)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("minni", {}, "no model 'minni'. Give one of mini, mini-teacher, .*nitrosd-realism, .* folder or owner/repo"),
        ("mini", {"memory": ["offload"]}, "takes a sequence out of model_offload, sequential_offload, attention_"),
        ("mini", {"memory": "vae_tiling"}, "takes a sequence"),
        ("mini", {"memory": ["model_offload", "sequential_offload"]}, "choose one"),
        ("mini", {"memory": ["model_offload"]}, "needs a GPU"),
        ("mini", {"revision": "main"}, "is a folder, which has no revisions"),
        ("mini", {"shifted_timestep": 0}, "shifted_timestep is 0; it must be"),
    ],
)
@pytest.mark.usefixtures("mini")
def test_wrong_arguments(model: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(model, **options)


def test_memory_by_name(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load(models / "sdxl", memory=["vae_slicing", "vae_tiling", "attention_slicing"])
    assert pipe.vae.use_slicing
    assert pipe.vae.use_tiling
    assert "Sliced" in type(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.processor).__name__
    calls = []
    monkeypatch.setattr(
        StableDiffusionXLPipeline, "enable_model_cpu_offload", lambda self, device: calls.append(device)
    )
    monkeypatch.setattr(StableDiffusionXLPipeline, "to", lambda self, device: calls.append("moved"))
    load_pipeline(models / "sdxl", device="cuda", memory=["model_offload"])
    assert calls == [torch.device("cuda")]


def test_full_size_sdxl_has_ten_levels_where_the_paper_puts_them() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
        latents, tokens, told = torch.empty(1, 4, 128, 128), torch.empty(1, 77, 2048), torch.tensor(999)
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
    assert sum(weight.numel() for weight in unet.parameters()) == 2_567_463_684
    levels = {}

    def note(name: str, features: tuple[torch.Tensor, ...]) -> None:
        levels[name] = [tuple(feature.shape[1:]) for feature in features]

    unet.conv_in.register_forward_hook(lambda module, inputs, output: note("conv_in", (output,)))
    unet.mid_block.register_forward_hook(lambda module, inputs, output: note("mid", (output,)))
    for number, block in enumerate(unet.down_blocks):
        block.register_forward_hook(lambda module, inputs, output, number=number: note(f"down {number}", output[1]))
    unet(latents, told, encoder_hidden_states=tokens, added_cond_kwargs=added)
    assert levels == {
        "conv_in": [(320, 128, 128)],
        "down 0": [(320, 128, 128), (320, 128, 128), (320, 64, 64)],
        "down 1": [(640, 64, 64), (640, 64, 64), (640, 32, 32)],
        "down 2": [(1280, 32, 32), (1280, 32, 32)],
        "mid": [(1280, 32, 32)],
    }


def test_import_is_cheap() -> None:
    code = "import sys, nitro_lab; assert not {'torch', 'diffusers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
