"""Bottom-up refinement: which inference step is trained, and that training samples as inference does."""

import math
from contextlib import closing
from dataclasses import replace
from functools import wraps

import pytest
import torch
from tiny_training import differing, saved_state, saved_step, tiny
from training_fixtures import cache, private_cache  # noqa: F401

from nitro_lab import sampling
from nitro_lab.models import load_pipeline
from nitro_lab.sampling import ONE_STEP, StudentStep, encode_prompts, predict_x0, sample_student_step
from nitro_lab.training.batch import sample_batch
from nitro_lab.training.run import TrainingRun
from nitro_lab.training.state import prepare_training

PROMPTS = ["a large striped red star at the top on a sunset background", "a small solid blue ring in the center"]


def test_the_last_stage_has_no_end():
    assert [sampling.max_steps_at(step, (1, 2, 3), 2) for step in range(9)] == [1, 1, 2, 2, 3, 3, 3, 3, 3]
    assert [sampling.max_steps_at(step, (4,), 2) for step in (0, 50)] == [4, 4]


@pytest.mark.parametrize("step_sampling", sampling.STEP_SAMPLERS)
def test_steps_are_sampled_as_documented_and_in_a_fixed_order(step_sampling):
    """One uniform number, then the schedule, then the step, as far as needed: so that runs can be repeated."""
    generator, reference = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert sample_student_step(1, step_sampling, 0.5, generator) == ONE_STEP  # without a random number
    for _ in range(200):
        found = sample_student_step(3, step_sampling, 0.2, generator)
        expected = ONE_STEP
        if torch.rand((), generator=reference).item() >= 0.2:
            n = 1 + int(torch.randint(3, (), generator=reference)) if step_sampling == "any_schedule" else 3
            k = n if step_sampling == "last_step" else 1 + int(torch.randint(n, (), generator=reference))
            expected = StudentStep(n, k)
        assert found == expected
    assert torch.equal(generator.get_state(), reference.get_state())


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 3), (4, 4)])
def test_predictions_in_training_are_the_pipelines_bit_for_bit(n, k):
    """The pipeline's own call and scheduler, with the same noise between the steps."""
    pipe = load_pipeline("mini", device="cpu", dtype=torch.float32)
    noise = torch.randn((len(PROMPTS), *sampling.latent_shape(pipe)), generator=torch.Generator().manual_seed(1))
    predicted, step = [], pipe.scheduler.step

    @wraps(step)  # the pipeline reads the signature to see whether it may pass a generator
    def record(*arguments, **options):
        stepped = step(*arguments, **options | {"return_dict": True})
        predicted.append(stepped.denoised)
        return stepped.prev_sample, stepped.denoised

    generators, again = ([torch.Generator().manual_seed(seed) for seed in (11, 12)] for _ in range(2))
    options = {"num_inference_steps": n, "guidance_scale": 0, "output_type": "latent"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe.scheduler, "step", record)
        pipe(prompt=PROMPTS, latents=noise.clone(), generator=generators, **options)
    pipe.unet.train()
    x0 = predict_x0(pipe.unet, pipe.scheduler, noise, encode_prompts(pipe, PROMPTS), StudentStep(n, k), again)
    assert x0.requires_grad
    assert torch.equal(x0.detach(), predicted[k - 1])


def make_fakes(state, batch, student_step: StudentStep) -> torch.Tensor:
    rollout_grad, scheduler = state.config.rollout_grad, state.scheduler
    arguments = (batch.x_T, batch.fake_embeds, student_step, batch.generators(), rollout_grad)
    return predict_x0(state.student, scheduler, *arguments)


@pytest.mark.parametrize(("rollout_grad", "expected"), [(False, [False, False, True]), (True, [False, True, True])])
def test_gradients_stop_at_the_last_re_noising_without_rollout_grad(tmp_path, rollout_grad, expected):
    state = prepare_training(tiny(stages=(3,), rollout_grad=rollout_grad), tmp_path)
    graphs = []
    state.student.register_forward_hook(lambda module, args, output: graphs.append(output.sample.requires_grad))
    assert make_fakes(state, sample_batch(state, multi_step=True), StudentStep(3, 3)).requires_grad
    assert graphs == expected


def test_fakes_do_not_depend_on_how_a_batch_is_split(tmp_path):
    state = prepare_training(tiny(stages=(2,)), tmp_path)
    batch = sample_batch(state, multi_step=True)
    part = replace(batch, x_T=batch.x_T[2:], fake_embeds=batch.fake_embeds[slice(2, None)], seeds=batch.seeds[2:])
    with torch.no_grad():
        whole, half = (make_fakes(state, part, StudentStep(2, 2)) for part in (batch, part))
    torch.testing.assert_close(half, whole[2:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("step_sampling", "stop_after"), [("last_step", 2), ("any_schedule", 3)])
def test_a_run_goes_through_the_stages_and_is_resumed(tmp_path, step_sampling, stop_after):
    stages = [1, 1, 2, 2, 3, 3]
    config = tiny(stages=(1, 2, 3), stage_steps=2, max_train_steps=6, step_sampling=step_sampling)
    whole = list(TrainingRun(config, tmp_path / "whole").steps())
    assert all(r.student_step.num_inference_steps <= stage for r, stage in zip(whole, stages, strict=True))
    if step_sampling == "last_step":
        assert [report.student_step for report in whole] == [StudentStep(n, n) for n in stages]
    assert all(math.isfinite(r.disc_loss + r.student_loss) and r.grad_norm > 0 for r in whole)
    with closing(TrainingRun(config, tmp_path / "parts").steps()) as steps:
        losses = [next(steps).disc_loss for _ in range(stop_after)]
    assert saved_step(tmp_path / "parts") == stop_after
    losses += [report.disc_loss for report in TrainingRun(config, tmp_path / "parts").steps()]
    assert losses == [report.disc_loss for report in whole]
    assert differing(saved_state(tmp_path / "whole"), saved_state(tmp_path / "parts")) == set()
