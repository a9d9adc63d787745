"""Sampling, the autoencoder in float16 and the evaluation, on a pretended GPU."""

import pytest
import torch
from PIL import ImageChops

import pretend_cuda
from nitro_lab.evaluation.eval_set import compute_metrics, make_eval_set, render_again, sample_eval_set, with_teacher
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.models import load_pipeline
from nitro_lab.sampling import (
    decode,
    encode,
    encode_prompts,
    latent_shape,
    predict_x0,
    sample_image,
    sample_latents,
    sample_trajectory,
)

PROMPTS = ["a large striped red star at the top on a sunset background", "a small blue circle"]


@pytest.fixture(scope="module")
def pipes():
    """The miniature on the GPU in float16, and on the CPU."""
    pretend_cuda.on()
    pipes = load_pipeline("mini"), load_pipeline("mini", device="cpu")
    pretend_cuda.off()
    assert (pipes[0].device.type, pipes[0].unet.dtype) == ("cuda", torch.float16)
    return pipes


@pytest.fixture
def noise(pipes):
    """Noise on the CPU, in float32."""
    return torch.randn(2, *latent_shape(pipes[0]), generator=torch.Generator().manual_seed(0))


def assert_same(on_gpu, on_cpu, tolerance=0.05):
    assert on_gpu.device.type == "cuda"
    assert (on_gpu.cpu().float() - on_cpu).abs().max() < tolerance


@pytest.mark.skipif(bool(torch.version.cuda or torch.version.hip), reason="a real GPU names no line")
def test_a_pretended_gpu_names_the_line_of_a_mixup_and_of_a_wait():
    x, index = torch.ones(2, device="cuda"), torch.tensor([0])
    mixed = {
        "on cuda:0 and the CPU": lambda: x + torch.ones(2),
        "another device than the tensor": lambda: torch.ones(2)[index.cuda()],
        "generator of another device": lambda: torch.randn(2, device="cuda", generator=torch.Generator()),
        "numpy": x.numpy,
    }
    for problem, mix in mixed.items():
        with pytest.raises((RuntimeError, TypeError), match=rf"{problem}.* at .*on_sampling\.py:\d+"):
            mix()
    assert len(pretend_cuda.mixups) == len(mixed)
    pretend_cuda.mixups.clear()
    pretend_cuda.waits.clear()
    x = x * torch.tensor(1.0) + index[0].pin_memory().to("cuda", non_blocking=True)  # allowed, and without a wait
    assert not pretend_cuda.waits
    assert (x[index].sum().item(), x[:1].cpu().tolist()) == (1, [1])
    assert sum(pretend_cuda.waits.values()) == 3
    assert "on_sampling.py" in pretend_cuda.report()


@torch.no_grad()
def test_one_seed_gives_the_same_sample_as_on_the_cpu(pipes, noise):
    gpu, cpu = pipes
    assert_same(sample_latents(gpu, PROMPTS, noise, 3), sample_latents(cpu, PROMPTS, noise, 3))
    first, second = (sample_image(pipe, PROMPTS[0], seed=3, num_inference_steps=2)[0] for pipe in pipes)
    assert max(high for _, high in ImageChops.difference(first, second).getextrema()) < 12
    parts = [(p.unet, p.scheduler, noise, encode_prompts(p, PROMPTS)) for p in pipes]
    steps = [list(sample_trajectory(*inputs, 2, generator=torch.Generator().manual_seed(1))) for inputs in parts]
    assert_same(steps[0][1].x0, steps[1][1].x0)


@torch.no_grad()
def test_the_host_does_not_wait_in_a_prediction(pipes, noise):
    gpu, cpu = pipes
    embeds, x_T = encode_prompts(gpu, PROMPTS), noise.to("cuda", torch.float16)
    pretend_cuda.waits.clear()
    x0 = predict_x0(gpu.unet, gpu.scheduler, x_T, embeds)
    assert not pretend_cuda.waits, pretend_cuda.report()
    assert_same(x0, predict_x0(cpu.unet, cpu.scheduler, noise, encode_prompts(cpu, PROMPTS)))


def test_the_autoencoder_takes_latents_and_images_of_the_cpu_and_of_float32(pipes, noise):
    gpu, cpu = pipes
    images = decode(gpu, noise)
    assert_same(images, decode(cpu, noise), 0.02)
    assert_same(encode(gpu, images.cpu().float()), encode(cpu, images.cpu().float()))


def test_evaluation(pipes):
    sets = [make_eval_set(pipe, load_scene_classifier(), num_images=12) for pipe in pipes]
    metrics = [
        compute_metrics(with_teacher(eval_set, pipe), sample_eval_set(eval_set, pipe, 1))
        for eval_set, pipe in zip(sets, pipes, strict=True)
    ]
    assert metrics[0]["FD"] == pytest.approx(metrics[1]["FD"], rel=0.1)
    assert metrics[0]["all"] == pytest.approx(metrics[1]["all"], abs=0.1)
    assert compute_metrics(sets[0], render_again(sets[0], pipes[0]))["all"] > 0.8


@torch.no_grad()
@pytest.mark.parametrize("offload", ["model_offload", "sequential_offload"])
def test_a_pipeline_that_is_offloaded_to_the_cpu(pipes, noise, offload):
    offloaded, cpu = load_pipeline("mini", memory=[offload, "vae_tiling"]), pipes[1]
    assert_same(*(decode(pipe, sample_latents(pipe, PROMPTS, noise, 2)) for pipe in (offloaded, cpu)))
    embeds = [encode_prompts(pipe, PROMPTS) for pipe in (offloaded, cpu)]
    assert_same(*(predict_x0(p.unet, p.scheduler, noise, x) for p, x in zip((offloaded, cpu), embeds, strict=True)))
    eval_set = make_eval_set(offloaded, load_scene_classifier(), num_images=12)
    assert compute_metrics(eval_set, sample_eval_set(eval_set, offloaded, 1))["all"] > 0.5
