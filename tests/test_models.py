"""Loading from folders, files and runs: what is loaded is exact, and what does not fit is refused by name."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_sdxl import make_repository, make_unet, write_lora, write_student

from nitro_lab import TimestepShiftLCMScheduler, load_pipeline, load_unet
from nitro_lab.checkpoint import weights_hash
from nitro_lab.models import MODELS, ModelSource
from nitro_lab.sampling import latent_shape, sample_latents
from nitro_lab.weights import CheckpointError

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder_2/model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL in `sdxl/`, a student beside it. Not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    make_repository(folder / "sdxl")
    write_student(folder / "student.safetensors")
    return folder


@pytest.fixture(autouse=True)
def mini(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny SDXL under the name of the miniature."""
    monkeypatch.setitem(MODELS, "mini", ModelSource(str(models / "sdxl"), str(models / "student.safetensors"), 250))


def load(model: str | Path, **options) -> StableDiffusionXLPipeline:
    pipe = load_pipeline(model, device="cpu", **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_same(unet: UNet2DConditionModel, weights: dict[str, torch.Tensor]) -> None:
    """Bit for bit, in the UNet's own dtype."""
    state = unet.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(value, weights[name].to(value.dtype)) for name, value in state.items())


def edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """A fault that changes the tensors of a file."""

    def fault(file: Path) -> None:
        weights = {name: value.clone() for name, value in load_file(file).items()}
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})

    return fault


def set_entries(**entries: object) -> Callable[[Path], object]:
    """A fault that changes entries of `model_index.json`."""
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.filterwarnings("error")
def test_student_by_name(models):
    pipe = load("mini")
    assert_same(pipe.unet, load_file(models / "student.safetensors"))
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    assert not pipe.unet.training
    assert all(weight.requires_grad for weight in pipe.unet.parameters())
    pipe.scheduler.set_timesteps(4)
    assert pipe.scheduler.timesteps.tolist() == [249, 187, 124, 62]
    assert pipe("a b", num_inference_steps=1, guidance_scale=0).images[0].size == (16, 16)


def test_saved_pipeline_loads_back(models, tmp_path):
    pipe = load("mini", shifted_timestep=500)
    pipe.scheduler = TimestepShiftLCMScheduler(shifted_timestep=500, original_inference_steps=8)
    pipe.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert_same(again.unet, pipe.unet.state_dict())
    assert isinstance(again.scheduler, TimestepShiftLCMScheduler)
    saved, loaded = ({k: v for k, v in p.scheduler.config.items() if k[0] != "_"} for p in (pipe, again))
    assert loaded == saved
    calls = {"num_inference_steps": 2, "guidance_scale": 0}
    images = [p("a b", generator=torch.Generator().manual_seed(1), **calls).images[0] for p in (pipe, again)]
    assert images[0] == images[1]
    student, lcm = {"unet": models / "student.safetensors", "shifted_timestep": 250}, tmp_path / "lcm"
    assert load(tmp_path, **student).scheduler.config.original_inference_steps == 8
    pipe.scheduler = LCMScheduler()
    pipe.save_pretrained(lcm)
    assert load(lcm, **student).scheduler.config.original_inference_steps == 4  # LCM's 50 are not the student's


def test_other_files_beside_the_weights_are_ignored(models, tmp_path):
    """Also beside shards, of which exactly those of the index are loaded."""
    folder = copytree(models / "sdxl", tmp_path / "more")
    whole = load_file(folder / UNET)
    zeros = {name: torch.zeros_like(value) for name, value in whole.items()}
    for name in ("ema_model", "old_model", "diffusion_pytorch_model-00001-of-00002"):
        save_file(zeros, folder / "unet" / f"{name}.safetensors")
    (folder / "unet" / "._diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)
    unet = load(folder).unet
    assert_same(unet, whole)

    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    save_file(zeros, folder / "unet" / "diffusion_pytorch_model-00009-of-00009.safetensors")
    assert_same(load(folder).unet, whole)
    shards[-1].unlink()
    with pytest.raises(CheckpointError, match=shards[-1].name):
        load(folder)


def test_a_run_and_where_it_started(models, tmp_path):
    first, second = tmp_path / "build" / "first", tmp_path / "build" / "second"
    for run, start, seed in ((first, "mini", 1), (second, str(first), 2)):
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps({"init_from": start}))
        write_student(run / "student.safetensors", seed)
    pipe = load(second)
    assert_same(pipe.unet, load_file(second / "student.safetensors"))
    assert pipe.scheduler.config.shifted_timestep == 250
    (tmp_path / "build").rename(tmp_path / "moved")
    assert_same(load(tmp_path / "moved" / "second").unet, pipe.unet.state_dict())
    (tmp_path / "moved" / "first" / "student.safetensors").unlink()
    with pytest.raises(ValueError, match=r"first.*student\.safetensors"):
        load(tmp_path / "moved" / "second")
    (tmp_path / "moved" / "first").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"second started from .*build/first.*moved/first"):
        load(tmp_path / "moved" / "second")


def merge(weights: dict[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Weights of a UNet with a LoRA of scale 1 added to them."""
    lora = {name.removeprefix("unet."): value for name, value in load_file(file).items()}
    merged = dict(weights)
    for name, down in lora.items():
        if "lora_A" in name:
            merged[name.replace("lora_A.", "")] = (
                weights[name.replace("lora_A.", "")] + lora[name.replace("lora_A", "lora_B")] @ down
            )
    return merged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loras_of_runs_are_merged_one_after_another(models, tmp_path, dtype):
    """A run that trained a LoRA may start from another; one that trained all weights, from both."""
    runs = [tmp_path / name for name in ("first", "second", "full")]
    starts = ["mini", str(runs[0]), str(runs[1])]
    files = []
    for run, start, seed in zip(runs, starts, range(3), strict=True):
        run.mkdir()
        (run / "config.json").write_text(json.dumps({"init_from": start, "shifted_timestep": 500 if seed else None}))
        if run.name == "full":
            write_student(run / "student.safetensors", 3)
        else:
            files.append(write_lora(run / "student_lora.safetensors", seed))
    expected = {name: x.to(dtype) for name, x in load_file(models / "student.safetensors").items()}
    for run, file in zip(runs[:2], files, strict=True):
        expected = {name: x.to(dtype) for name, x in merge({n: x.float() for n, x in expected.items()}, file).items()}
        pipe = load(run, dtype=dtype)
        found = pipe.unet.state_dict()
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=torch.finfo(dtype).eps)
    assert pipe.scheduler.config.shifted_timestep == 500
    assert weights_hash(pipe.unet) == weights_hash(load(runs[1], dtype=dtype).unet) != weights_hash(load("mini").unet)
    assert_same(load(runs[2]).unet, load_file(runs[2] / "student.safetensors"))
    assert_same(load(runs[0], unet=models / "student.safetensors").unet, load_file(models / "student.safetensors"))


@pytest.mark.parametrize(
    "change",
    {
        "whole UNet": lambda file: write_student(file),
        "names": edit(lambda w: [w.update({f"x.{k}": w.pop(k)}) for k in list(w)]),
        "shapes": edit(lambda w: w.update({k: torch.ones(3, 5) for k in w})),
        "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    }.items(),
    ids=lambda change: change[0],
)
def test_faults_of_loras(tmp_path, change):
    file = write_lora(tmp_path / "student_lora.safetensors")
    change[1](file)
    with pytest.raises(CheckpointError, match=r"student_lora\.safetensors"):
        load("mini", lora=file)


def test_two_models_share_text_encoders_and_vae(models, monkeypatch):
    """Only the second UNet and its scheduler are loaded, and only they go to the device."""
    teacher = load(models / "sdxl")
    monkeypatch.setattr("nitro_lab.repository.Repository._load_part", None)
    student = load_pipeline("mini", device="meta", share=teacher)
    shared = {name for name, part in student.components.items() if part is teacher.components[name]}
    assert shared == teacher.components.keys() - {"unet", "scheduler"}
    assert (student.unet.device.type, teacher.vae.device.type, teacher.unet.device.type) == ("meta", "cpu", "cpu")
    assert (student.scheduler.config.shifted_timestep, type(teacher.scheduler).__name__) == (
        250,
        "EulerDiscreteScheduler",
    )


def test_gpus_without_bfloat16(monkeypatch):
    monkeypatch.setattr("nitro_lab.models._usable_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(ValueError, match=r"bfloat16.*torch\.float16"):
        load_pipeline("mini", dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("minni", {}, "minni.*mini-teacher.*nitrosd-realism"),
        ("mini", {"memory": ["offload"]}, "memory.*offload.*model_offload.*vae_tiling"),
        ("mini", {"memory": "vae_tiling"}, "memory.*vae_tiling"),
        ("mini", {"memory": ["model_offload", "sequential_offload"]}, "model_offload and sequential_offload"),
        ("mini", {"memory": ["model_offload"]}, "model_offload.*CPU"),
        ("mini", {"revision": "main"}, "revision.*main"),
        ("mini", {"shifted_timestep": 0}, "shifted_timestep.*0"),
        ("mini", {"dtype": "float16"}, "dtype.*float16"),
        ("mini", {"dtype": torch.int8}, "dtype.*int8"),
        ("mini", {"device": "cuda"}, "device.*cuda"),
        ("mini", {"device": "cuba"}, "device.*cuba"),
        ("mini", {"device": "mps"}, "device.*mps.*cpu"),
    ],
)
def test_wrong_arguments(model, options, message):
    if "cuda" in message and torch.cuda.is_available():
        pytest.skip("CUDA is available")
    with pytest.raises(ValueError, match=message):
        load_pipeline(model, **{"device": "cpu"} | options)


def test_memory_options(models, monkeypatch):
    pipe = load(models / "sdxl", memory=["vae_slicing", "vae_tiling", "attention_slicing"])
    assert (pipe.vae.use_slicing, pipe.vae.use_tiling) == (True, True)
    assert "Sliced" in type(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.processor).__name__
    calls: list = []
    for name in ("enable_model_cpu_offload", "to"):
        monkeypatch.setattr(StableDiffusionXLPipeline, name, lambda self, device: calls.append(device))
    load_pipeline(models / "sdxl", device="meta", memory=["model_offload"])
    assert calls == [torch.device("meta")]


STUDENT, INDEX = "student.safetensors", "model_index.json"
FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {  # the file, its fault -> the message
    "no student": (STUDENT, lambda file: file.unlink(), STUDENT),
    "cut student": (STUDENT, lambda file: file.write_bytes(file.read_bytes()[:-1000]), STUDENT),
    "empty": (STUDENT, lambda file: file.write_bytes(b""), STUDENT),
    "pickled": (STUDENT, lambda file: torch.save({"a": torch.ones(1)}, file), f"{STUDENT}.*save_file"),
    "pointer": (STUDENT, lambda file: file.write_text("version https://git-lfs.github.com\n"), "git lfs pull"),
    "page": (STUDENT, lambda file: file.write_text("<!DOCTYPE html>" + " " * 50), STUDENT),
    "missing weight": (STUDENT, edit(lambda w: w.pop("conv_in.bias")), rf"{STUDENT}.*conv_in\.bias"),
    "surplus": (STUDENT, edit(lambda w: w.update(more=torch.ones(1))), f"{STUDENT}.*more"),
    "shape": (STUDENT, edit(lambda w: w.update({"conv_in.bias": torch.ones(3)})), r"conv_in\.bias.*\b3\b.*\b8\b"),
    "integers": (STUDENT, edit(lambda w: w.update({"conv_in.bias": w["conv_in.bias"].char()})), r"conv_in\.bias"),
    "complex": (STUDENT, edit(lambda w: w.update({k: v.cfloat() for k, v in w.items()})), f"{STUDENT}.*C64"),
    "integer VAE": (VAE, edit(lambda w: w.update({k: v.int() for k, v in w.items()})), f"{VAE}.*I32"),
    "text of bool": (TEXT, edit(lambda w: w.update({k: v.bool() for k, v in w.items()})), f"{TEXT}.*BOOL"),
    "no pipeline": (INDEX, lambda file: file.unlink(), INDEX),
    "no unet": ("unet/config.json", lambda file: file.unlink(), r"unet.config\.json"),
    "no weights": (TEXT, lambda file: [path.unlink() for path in file.parent.glob("*model*")], r"\.bin"),
    "cut VAE": (VAE, lambda file: file.write_bytes(file.read_bytes()[:-10]), VAE),
    "VAE's weight": (VAE, edit(lambda w: w.pop("encoder.conv_in.weight")), rf"{VAE}.*encoder\.conv_in"),
    "VAE's shape": (VAE, edit(lambda w: w.update({"encoder.conv_in.bias": torch.ones(3)})), r"encoder\.conv_in\.bias"),
    "projection": (TEXT, edit(lambda w: w.pop("text_projection.weight")), rf"{TEXT}.*text_projection\.weight"),
    "class from elsewhere": (INDEX, set_entries(vae=["antigravity", "fly"]), "antigravity.*vae.*diffusers"),
    "class of a like name": (INDEX, set_entries(tokenizer=["diffusers_x", "Fast"]), "diffusers_x.*tokenizer"),
    "one name": (INDEX, set_entries(vae=["diffusers"]), r'"diffusers".*vae'),
    "a number": (INDEX, set_entries(vae=5), "TypeError"),
    "no such class": (INDEX, set_entries(vae=["diffusers", "Auto"]), "Auto"),
    "a list": (INDEX, lambda file: file.write_text("[1]"), INDEX),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_files(models, tmp_path, fault):
    name, cause, message = FAULTS[fault]
    folder = copytree(models / "sdxl", tmp_path / "base")
    write_student(folder / STUDENT)
    cause(folder / name)
    with pytest.raises(CheckpointError, match=message):
        load(folder, **({"unet": folder / STUDENT} if name == STUDENT else {}))
    assert "antigravity" not in sys.modules


def test_a_pickled_file_is_refused_by_its_name():
    with pytest.raises(CheckpointError, match=r"student\.ckpt.*save_file"):
        load_unet("student.ckpt", make_unet().config)


def test_import_is_cheap():
    code = "import sys, nitro_lab; assert not {'torch', 'diffusers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_lora_loaded_by_diffusers_is_its_merged_weights(tmp_path):
    pipe, merged = load("mini"), load("mini")
    noise = torch.randn(1, *latent_shape(pipe), generator=torch.Generator().manual_seed(0))
    first, plain = (sample_latents(one, ["a b"], noise, 1) for one in (pipe, merged))
    file = write_lora(tmp_path / "student_lora.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    merged.unet.load_state_dict(merge(merged.unet.state_dict(), file))
    with_lora, expected = (sample_latents(one, ["a b"], noise, 1) for one in (pipe, merged))
    assert torch.equal(first, plain)
    assert (with_lora - plain).abs().max() > 1e-3
    torch.testing.assert_close(with_lora, expected, rtol=1e-4, atol=1e-5)
