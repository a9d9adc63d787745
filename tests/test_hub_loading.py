"""Loading through `huggingface_hub`, from a hub on loopback that tells what it was asked for."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pytest
import torch
from hub import Hub, commit, running_hub
from huggingface_hub import constants
from safetensors.torch import load_file
from tiny_sdxl import NOT_WANTED, make_repository, write_student

from nitro_lab.checkpoints import SDXL, load_pipeline
from nitro_lab.loading.weight_files import CheckpointError, fetch_file

NITRO = "ChenDY/NitroFusion"
STUDENT = f"{NITRO}/nitrosd-vibrant_unet.safetensors"
SCRIPT = """
import json, sys
from nitro_lab import load_pipeline
pipe = load_pipeline("nitrosd-vibrant", device="cpu")
image = pipe("a b", num_inference_steps=2, guidance_scale=0).images[0]
total = sum(value.double().sum().item() for value in pipe.unet.state_dict().values())
print(json.dumps({"told": pipe.scheduler.timesteps.tolist(), "size": image.size, "sum": total}))
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny SDXL and a tiny NitroSD, under the names of the real ones. Not to be changed."""
    folder = tmp_path_factory.mktemp("repositories")
    make_repository(folder / "base")
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
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def weights_asked(hub: Hub) -> list[str]:
    """Names of the weights that were asked for, without their repositories."""
    return sorted(name.split("/", 2)[2] for name in hub.asked if name.endswith((".safetensors", ".onnx", ".bin")))


def test_nitrosd_in_a_process_of_its_own(repositories: dict[str, Path], tmp_path: Path) -> None:
    """As users run it: the environment names the hub, and nothing is patched."""
    with running_hub() as hub:
        hub.repositories = dict(repositories)
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
        names = {**places, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-W", "error::FutureWarning", "-c", SCRIPT],
            env={**os.environ, **names},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    student = load_file(repositories[NITRO] / "nitrosd-vibrant_unet.safetensors")
    assert answer["told"] == [499, 249]
    assert answer["size"] == [16, 16]
    assert answer["sum"] == sum(value.float().double().sum().item() for value in student.values())
    assert f"{SDXL}/unet/config.json" in hub.asked
    assert not [name for name in hub.asked if name.startswith(f"{SDXL}/unet/diffusion")]
    assert "torchvision" not in done.stderr


@pytest.mark.parametrize(("dtype", "middle"), [(torch.float32, ""), (torch.float16, ".fp16")])
def test_only_what_is_needed_is_downloaded(hub: Hub, dtype: torch.dtype, middle: str) -> None:
    pipe = load_pipeline("nitrosd-realism", device="cpu", dtype=dtype)
    assert weights_asked(hub) == [
        "nitrosd-realism_unet.safetensors",
        f"text_encoder/model{middle}.safetensors",
        f"text_encoder_2/model{middle}.safetensors",
        f"vae/diffusion_pytorch_model{middle}.safetensors",
    ]
    assert not [name for name in hub.asked if name.removeprefix(f"{SDXL}/") in NOT_WANTED]
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)} == {dtype}
    assert pipe.scheduler.config.shifted_timestep == 250
    hub.asked.clear()
    load_pipeline("nitrosd-realism", device="cpu", dtype=dtype)
    assert hub.asked == []  # all is in the cache


def test_repository_without_a_student(hub: Hub) -> None:
    pipe = load_pipeline(SDXL, revision="main", device="cpu", dtype=torch.float32)
    assert "unet/diffusion_pytorch_model.safetensors" in weights_asked(hub)
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"


def test_without_half_precision_files_the_full_ones_are_taken(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[SDXL] = shutil.copytree(hub.repositories[SDXL], tmp_path / "full")
    (tmp_path / "full" / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    pipe = load_pipeline("nitrosd-realism", device="cpu", dtype=torch.float16)
    assert "vae/diffusion_pytorch_model.safetensors" in weights_asked(hub)
    assert pipe.vae.dtype == torch.float16


def test_a_file_may_name_its_revision(hub: Hub) -> None:
    file = f"{NITRO}@{commit(NITRO)}/nitrosd-vibrant_unet.safetensors"
    pipe = load_pipeline(SDXL, unet=file, shifted_timestep=500, device="cpu", dtype=torch.float32)
    assert pipe.scheduler.config.shifted_timestep == 500
    with pytest.raises(CheckpointError, match=r"NitroFusion@v9/.* no such revision"):
        load_pipeline(SDXL, unet=file.replace(commit(NITRO), "v9"), device="cpu")


def pickled_only(hub: Hub, folder: Path) -> None:
    """The VAE comes as a pickled file alone."""
    hub.repositories[SDXL] = shutil.copytree(hub.repositories[SDXL], folder / "pickled")
    for file in (folder / "pickled" / "vae").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


FAULTS: dict[str, tuple[Callable[[Hub, Path], object], str]] = {
    "no repository": (lambda hub, _: hub.repositories.pop(SDXL), rf"{SDXL} .* no such repository .* Check the name"),
    "no student": (
        lambda hub, _: hub.repositories.update({NITRO: hub.repositories[SDXL]}),
        rf"{STUDENT} .* no such file",
    ),
    "consent": (lambda hub, _: hub.refusals.update({NITRO: "GatedRepo"}), rf"{STUDENT} .* `hf auth login`"),
    "refused student": (lambda hub, _: hub.refusals.update({NITRO: "Other"}), rf"{STUDENT} .* HTTP status 403. Log in"),
    "refused base": (lambda hub, _: hub.refusals.update({SDXL: "Other"}), rf"{SDXL} .* HTTP status 403. Log in"),
    "cut": (lambda hub, _: hub.cuts.update({Path(STUDENT).name: repeat(5000)}), rf"{STUDENT} .* cut .* again"),
    "cut base": (
        lambda hub, _: hub.cuts.update({"model.safetensors": repeat(50)}),
        rf"{SDXL}/text_encoder/\*model.* cut",
    ),
    "pickled": (pickled_only, rf"{SDXL} has no safetensors file for its part vae"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(hub: Hub, tmp_path: Path, fault: str) -> None:
    cause, message = FAULTS[fault]
    cause(hub, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline("nitrosd-vibrant", device="cpu", dtype=torch.float32)


def test_a_download_that_is_cut_once_goes_on_where_it_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # only whole chunks are kept
    name = "nitrosd-vibrant_unet.safetensors"
    hub.cuts[name] = iter([5000])
    pipe = load_pipeline("nitrosd-vibrant", device="cpu", dtype=torch.float16)
    assert hub.begun[name] == 5000
    student = load_file(hub.repositories[NITRO] / name)
    assert all(torch.equal(value, student[key]) for key, value in pipe.unet.state_dict().items())


def test_a_cache_that_cannot_be_written(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(CheckpointError, match=rf"{STUDENT} .* cache .* cannot be written .*denied.* Set HF_HOME"):
        fetch_file(STUDENT)


def test_after_a_failed_download_the_next_one_works(hub: Hub) -> None:
    hub.cuts["nitrosd-vibrant_unet.safetensors"] = repeat(5000)
    with pytest.raises(CheckpointError, match="cut"):
        load_pipeline("nitrosd-vibrant", device="cpu", dtype=torch.float32)
    hub.cuts.clear()
    hub.asked.clear()
    load_pipeline("nitrosd-vibrant", device="cpu", dtype=torch.float32)
    assert f"{SDXL}/model_index.json" not in hub.asked  # what had come whole was kept


def test_no_download_that_the_disk_cannot_hold(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(Path.cwd())._replace(free=100_000)  # the tiny UNet's file is larger, the others are not
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=rf"{STUDENT} .* disk is too small .*MB.* HF_HOME"):
        load_pipeline("nitrosd-vibrant", device="cpu")
    assert STUDENT not in hub.asked


def test_without_network_the_cache_serves(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_pipeline("nitrosd-vibrant", device="cpu", dtype=torch.float32)
    hub.asked.clear()
    point_to("http://127.0.0.1:9", monkeypatch)  # the port of `discard`, where nothing listens
    load_pipeline("nitrosd-vibrant", device="cpu", dtype=torch.float32)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match=rf"{SDXL} .* does not answer.* Check the network"):
        load_pipeline("nitrosd-vibrant", device="cpu", dtype=torch.float32)
    assert hub.asked == []
