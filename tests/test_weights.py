"""Downloads through `huggingface_hub`, from a hub on loopback that records what it was asked for."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from hub import Hub, commit, running_hub, running_proxy
from huggingface_hub import close_session, constants, hf_api
from safetensors.torch import load_file
from tiny_sdxl import NOT_WANTED, make_repository, write_lora, write_student

from nitro_lab.models import MODELS, SDXL, find_source, load_pipeline
from nitro_lab.weights import CheckpointError, fetch_file

NITRO = "ChenDY/NitroFusion"
NOWHERE = "http://127.0.0.1:9"  # the port of `discard`, where nothing listens
STUDENT = f"{NITRO}/nitrosd-vibrant_unet.safetensors"
SCRIPT = """
import json
from nitro_lab import load_pipeline
pipe = load_pipeline("nitrosd-vibrant", device="cpu")
image = pipe("a b", num_inference_steps=2, guidance_scale=0).images[0]
total = sum(value.double().sum().item() for value in pipe.unet.state_dict().values())
print(json.dumps([pipe.scheduler.timesteps.tolist(), image.size, total]))
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny SDXL and a tiny NitroSD, under the names of the real ones. Not to be changed."""
    folder = tmp_path_factory.mktemp("repositories")
    make_repository(folder / "base")
    (folder / "base" / "vae_1_0" / "config.json").write_text("{}")  # JSON that diffusers does not fetch
    (folder / "nitro").mkdir()
    write_student(folder / "nitro" / "nitrosd-realism_unet.safetensors", seed=7)
    write_student(folder / "nitro" / "nitrosd-vibrant_unet.safetensors", seed=8)
    return {SDXL: folder / "base", NITRO: folder / "nitro"}


@pytest.fixture
def hub(repositories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub, an empty cache, and retries that do not wait."""
    with running_hub() as hub:
        hub.repositories = dict(repositories)
        point_to(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield hub


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def load(model: str = "nitrosd-vibrant", dtype: torch.dtype = torch.float32, **options):
    return load_pipeline(model, device="cpu", dtype=dtype, **options)


def test_nitrosd_in_its_own_process(repositories, tmp_path):
    """As users run it: the environment names the hub, and nothing is patched."""
    with running_hub() as hub:
        hub.repositories = dict(repositories)
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
        names = {**places, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "error::FutureWarning", "-c", SCRIPT]
        done = subprocess.run(command, env={**os.environ, **names}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    student = load_file(repositories[NITRO] / "nitrosd-vibrant_unet.safetensors")
    total = sum(value.float().double().sum().item() for value in student.values())
    assert json.loads(done.stdout) == [[499, 249], [16, 16], total]
    assert f"{SDXL}/unet/config.json" in hub.asked
    assert not [name for name in hub.asked if name.startswith(f"{SDXL}/unet/diffusion")]
    assert "torchvision" not in done.stderr


@pytest.mark.parametrize(
    ("dtype", "middle"), [(torch.float32, ""), (torch.float16, ".fp16"), (torch.bfloat16, ".fp16")]
)
def test_only_what_is_needed_is_downloaded(hub, dtype, middle):
    pipe = load("nitrosd-realism", dtype)
    assert sorted(name.split("/", 2)[2] for name in hub.asked if name.endswith((".safetensors", ".onnx"))) == [
        "nitrosd-realism_unet.safetensors",
        f"text_encoder/model{middle}.safetensors",
        f"text_encoder_2/model{middle}.safetensors",
        f"vae/diffusion_pytorch_model{middle}.safetensors",
    ]
    assert not [name for name in hub.asked if name.removeprefix(f"{SDXL}/") in NOT_WANTED]
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)} == {dtype}
    assert pipe.scheduler.config.shifted_timestep == 250
    hub.asked.clear()
    load("nitrosd-realism", dtype)
    assert hub.asked == []  # everything is in the cache


TRAILING = [999, 749, 499, 249]
TEACHERS = {  # name -> scheduler, timesteps, steps, guidance, and the file that is fetched beside the base's
    "sdxl": ("EulerDiscreteScheduler", list(range(961, 0, -40)), 25, 5.0, SDXL, "unet/diffusion_pytorch_model"),
    "sdxl-turbo": ("EulerDiscreteScheduler", [751, 501, 251, 1], 4, 0.0, "stabilityai/sdxl-turbo", "unet/"),
    "sdxl-lightning": ("EulerDiscreteScheduler", TRAILING, 4, 0.0, "ByteDance/SDXL-Lightning", "sdxl_lightning_4step_"),
    "dmd2": ("LCMScheduler", TRAILING, 4, 0.0, "tianweiy/DMD2", "dmd2_sdxl_4step_unet_fp16"),
    "hyper-sdxl": ("DDIMScheduler", list(range(999, 0, -125)), 8, 0.0, "ByteDance/Hyper-SD", "Hyper-SDXL-8steps-lora"),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_teachers_by_name(hub, repositories, tmp_path, name):
    """Each with the schedule that it was trained for. The turbo model's repository is here the base's."""
    scheduler, timesteps, steps, guidance, repo, file = TEACHERS[name]
    for writer, path in ((write_student, MODELS[name].unet), (write_lora, "".join(MODELS[name].loras))):
        if path:
            (tmp_path / repo).mkdir(parents=True)
            writer(tmp_path / repo / Path(path).name)
    hub.repositories[repo] = repositories[SDXL] if repo.startswith("stabilityai") else tmp_path / repo
    pipe, source = load(name, torch.float16), find_source(name)
    pipe.scheduler.set_timesteps(steps)
    assert (type(pipe.scheduler).__name__, pipe.scheduler.timesteps.long().tolist()) == (scheduler, timesteps)
    assert source.sampling == (steps, guidance)
    assert [asked for asked in hub.asked if asked.endswith(".safetensors") and asked.startswith(f"{repo}/{file}")]
    unets = [asked for asked in hub.asked if asked.startswith(f"{SDXL}/unet/diffusion")]
    assert len(unets) == (name in ("sdxl", "hyper-sdxl"))
    latents = pipe.to(torch.float32)("a b", num_inference_steps=steps, guidance_scale=guidance, output_type="latent")
    assert latents.images.isfinite().all()


def test_without_a_student_the_unet_is_downloaded_in_shards(hub, tmp_path):
    folder = hub.repositories[SDXL] = shutil.copytree(hub.repositories[SDXL], tmp_path / "shards")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    pipe = load(SDXL, revision="main")
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    loaded = pipe.unet.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in unet.state_dict().items())


def test_a_file_may_name_its_revision(hub):
    file = f"{NITRO}@{commit(NITRO)}/nitrosd-vibrant_unet.safetensors"
    assert load(SDXL, unet=file, shifted_timestep=500).scheduler.config.shifted_timestep == 500
    with pytest.raises(CheckpointError, match="NitroFusion@v9/"):
        load(SDXL, unet=file.replace(commit(NITRO), "v9"))


def pickled_only(hub: Hub, folder: Path) -> None:
    """The VAE comes as a pickled file only."""
    hub.repositories[SDXL] = shutil.copytree(hub.repositories[SDXL], folder / "pickled")
    for file in (folder / "pickled" / "vae").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


FAULTS: dict[str, tuple[Callable[[Hub, Path], object], str]] = {
    "no repository": (lambda hub, _: hub.repositories.pop(SDXL), SDXL),
    "no student": (lambda hub, _: hub.repositories.update({NITRO: hub.repositories[SDXL]}), STUDENT),
    "consent": (lambda hub, _: hub.refusals.update({NITRO: "GatedRepo"}), f"{STUDENT}.*hf auth login"),
    "refused student": (lambda hub, _: hub.refusals.update({NITRO: "Other"}), f"{STUDENT}.*403"),
    "refused base": (lambda hub, _: hub.refusals.update({SDXL: "Other"}), f"{SDXL}.*403"),
    "cut": (lambda hub, _: hub.cuts.update({Path(STUDENT).name: 5000}), STUDENT),
    "cut base": (lambda hub, _: hub.cuts.update({"model.safetensors": 50}), f"{SDXL}/text_encoder/model"),
    "pickled": (pickled_only, rf"{SDXL}.*vae.*\.bin"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(hub, tmp_path, fault):
    cause, message = FAULTS[fault]
    cause(hub, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load()


def test_a_disk_that_cannot_hold_the_file(hub, monkeypatch):
    usage = shutil.disk_usage(Path.cwd())._replace(free=100_000)  # smaller than the UNet's file, larger than the others
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=f"{STUDENT}.*HF_HOME"):
        load()
    assert STUDENT not in hub.asked
    monkeypatch.setattr(os, "makedirs", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(CheckpointError, match=f"{STUDENT}.*PermissionError.*HF_HOME"):
        fetch_file(STUDENT)


@pytest.mark.parametrize("filled_by_diffusers", [False, True])
def test_without_network_the_cache_serves(hub, monkeypatch, filled_by_diffusers):
    """In both precisions, from the files of one."""
    cache = constants.HF_HUB_CACHE
    if filled_by_diffusers:
        DiffusionPipeline.from_pretrained(SDXL, variant="fp16", dtype=torch.float16, cache_dir=cache)
        fetch_file(STUDENT)
    else:
        load()
    hub.asked.clear()
    point_to(NOWHERE, monkeypatch)
    for dtype in (torch.float32, torch.float16):
        pipe = load(dtype=dtype)
        assert pipe.vae.dtype == pipe.unet.dtype == dtype
    for file in Path(cache).glob("models--stabilityai*/snapshots/*/vae/*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match=f"{SDXL}.*vae.*HF_HUB_OFFLINE"):
        load()
    shutil.rmtree(cache)
    with pytest.raises(CheckpointError, match=f"{SDXL}.*HF_HUB_OFFLINE"):
        load()
    assert hub.asked == []


@pytest.mark.parametrize("status", [403, 407])
def test_a_proxy_that_refuses_is_named(hub, monkeypatch, status):
    """It answers every request itself, be it for a tunnel or for a page."""
    with running_proxy(status) as proxy:
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.setenv("NO_PROXY", "")
        point_to("https://hub.example", monkeypatch)
        close_session()  # sessions read the environment when they are made
        try:
            with pytest.raises(CheckpointError, match=f"{STUDENT}.*{status}.*HTTPS_PROXY"):
                fetch_file(STUDENT)
        finally:
            close_session()
