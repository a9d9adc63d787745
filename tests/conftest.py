"""What tests share: threads, an untrained miniature, a browser, a GPU."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from nitro_lab.mini.tokenizer import make_tokenizer
from nitro_lab.randomness import seeded
from tools.miniature.parts import PIPELINE_OPTIONS, make_scheduler, make_text_encoders, make_unet, make_vae

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Tests compare bits with those of the CPU, so they see no GPU; those that test_cuda.py runs in tests/pretend_cuda do.
if "pretend_cuda" not in sys.modules:
    collect_ignore = ["pretend_cuda"]
    if "NITRO_LAB_GPUS" not in os.environ:
        os.environ["NITRO_LAB_GPUS"] = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    """Limit torch's threads: the tests' models are so small that more only wait for each other."""
    torch.set_num_threads(min(4, torch.get_num_threads()))


@pytest.fixture(scope="session")
def untrained_parts() -> dict:
    """The miniature's parts with random weights, as arguments of a pipeline's class. Tests must not change them."""
    tokenizer = make_tokenizer()
    encoder, encoder_2 = seeded(0, lambda: make_text_encoders(tokenizer))
    parts = {"text_encoder": encoder, "text_encoder_2": encoder_2}
    parts |= {"unet": seeded(1, make_unet), "vae": seeded(2, make_vae)}
    modules = {name: part.eval().requires_grad_(False) for name, part in parts.items()}
    return modules | {"tokenizer": tokenizer, "tokenizer_2": make_tokenizer()}


@pytest.fixture
def untrained_pipeline(untrained_parts: dict) -> StableDiffusionXLPipeline:
    """The miniature with random weights, the teacher's scheduler and no progress bar."""
    pipe = StableDiffusionXLPipeline(**untrained_parts, scheduler=make_scheduler(), **PIPELINE_OPTIONS)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """A headless Chromium. Tests that need it are skipped without one, or fail if NITRO_LAB_REQUIRE_BROWSER is 1."""
    executable = require_browser()

    from playwright.sync_api import sync_playwright

    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def gpu_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that a test starts see the machine's GPUs, or pretend to have one, which g++ is needed for.

    Without g++ the test is skipped, or fails if NITRO_LAB_REQUIRE_COMPILER is 1.
    """
    if os.environ["NITRO_LAB_GPUS"] == "all":
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ["NITRO_LAB_GPUS"])
    if not (torch.version.cuda or torch.version.hip or shutil.which("g++")):
        problem = "g++ is not installed"
        if os.environ.get("NITRO_LAB_REQUIRE_COMPILER") == "1":
            pytest.fail(problem)
        pytest.skip(problem)


def require_browser() -> str:
    """Return the path of a browser. Without one the test is skipped, or fails if NITRO_LAB_REQUIRE_BROWSER is 1."""
    executable = find_browser()
    if executable is None:
        missing = f"none of {', '.join(BROWSERS)} is installed"
        if os.environ.get("NITRO_LAB_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return executable


def find_browser() -> str | None:
    """Return the path of the first installed browser of `BROWSERS`."""
    if Path("/usr/bin/chromium").exists():
        return "/usr/bin/chromium"
    return next(filter(None, map(shutil.which, BROWSERS)), None)
