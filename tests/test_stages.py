"""Bottom-up stages: which step of which schedule is trained, and that training goes the way that inference goes."""

import math
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import wraps
from pathlib import Path

import pytest
import torch
from tiny_training import TINY, differing, saved_state, saved_step

import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.checkpoints import load_pipeline
from nitro_lab.distill import distill, train
from nitro_lab.distill_config import DistillConfig
from nitro_lab.judging import draw_batch, make_fakes
from nitro_lab.sampling import encode_prompts, latent_shape, predict_x0
from nitro_lab.stages import LAWS, ONE_STEP, Turn, draw_turn, stage_at
from nitro_lab.studio import prepare

PROMPTS = ["a large striped red star at the top on a sunset background", "a small solid blue ring in the center"]
CLIMB = replace(TINY, stages=(1, 2, 3), stage_steps=2, steps=6, step_law="last step", save_every=100)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def private_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: cache)


def tally(law: str, most: int, share: float = 0.0, draws: int = 6000) -> dict[Turn, float]:
    generator = torch.Generator().manual_seed(0)
    counts = Counter(draw_turn(most, law, share, generator) for _ in range(draws))
    return {turn: count / draws for turn, count in counts.items()}


def test_stages_come_one_after_another_and_the_last_has_no_end():
    assert [stage_at(step, (1, 2, 3), 2) for step in range(9)] == [1, 1, 2, 2, 3, 3, 3, 3, 3]
    assert [stage_at(step, (4,), 2) for step in (0, 50)] == [4, 4]


def test_any_schedule_draws_the_schedule_and_then_its_step():
    shares = tally("any schedule", 3)
    expected = {Turn(steps, k): 1 / 3 / steps for steps in (1, 2, 3) for k in range(1, steps + 1)}
    assert shares.keys() == expected.keys()
    for turn, share in expected.items():
        assert shares[turn] == pytest.approx(share, abs=0.03)


def test_other_laws_and_the_share_of_one_step():
    assert tally("last step", 4) == {Turn(4, 4): 1}
    assert tally("any step", 2) == {Turn(2, 1): pytest.approx(0.5, abs=0.03), Turn(2, 2): pytest.approx(0.5, abs=0.03)}
    assert tally("last step", 4, share=0.25)[ONE_STEP] == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("law", LAWS)
def test_the_first_stage_draws_nothing(law):
    """So the chance of a one-step run does not hang on settings that are not in use."""
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert draw_turn(1, law, 0.5, generator) == ONE_STEP
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("turn", [Turn(1, 1), Turn(2, 1), Turn(2, 2), Turn(3, 2), Turn(4, 3), Turn(4, 4)])
def test_trainings_prediction_is_the_pipelines_bit_for_bit(turn):
    """The pipeline's own call, its own scheduler, the same noise between the steps."""
    pipe = load_pipeline("mini", device="cpu", dtype=torch.float32)
    noise = torch.randn((len(PROMPTS), *latent_shape(pipe)), generator=torch.Generator().manual_seed(1))
    predicted, step = [], pipe.scheduler.step

    @wraps(step)  # the pipeline looks at the signature, to see whether it may pass a generator
    def record(*arguments, **options):
        options["return_dict"] = True
        stepped = step(*arguments, **options)
        predicted.append(stepped.denoised)
        return stepped.prev_sample, stepped.denoised

    seeds = [torch.Generator().manual_seed(seed) for seed in (11, 12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe.scheduler, "step", record)
        pipe(
            prompt=PROMPTS,
            latents=noise.clone(),
            num_inference_steps=turn.steps,
            guidance_scale=0,
            generator=seeds,
            output_type="latent",
        )
    told = encode_prompts(pipe, PROMPTS)
    again = [torch.Generator().manual_seed(seed) for seed in (11, 12)]
    pipe.unet.train()
    trained = predict_x0(pipe.unet, pipe.scheduler, noise, told, turn, again)
    assert trained.requires_grad
    assert torch.equal(trained.detach(), predicted[turn.k - 1])


def test_gradients_stop_at_the_last_noising_unless_they_are_let_through(tmp_path):
    """The UNet's pass before the last one keeps a graph only if they are."""
    for through, expected in ((False, [False, False, True]), (True, [False, True, True])):
        training = prepare(replace(TINY, stages=(3,), rollout_gradient=through), tmp_path / str(through))
        graphs = []
        training.student.register_forward_hook(
            lambda module, inputs, output, graphs=graphs: graphs.append(output.sample.requires_grad)
        )
        fakes = make_fakes(training, draw_batch(training, several_steps=True), Turn(3, 3))
        assert graphs == expected
        assert fakes.requires_grad


def test_fakes_do_not_hang_on_how_a_batch_is_split(tmp_path):
    training = prepare(replace(TINY, stages=(2,)), tmp_path)
    batch = draw_batch(training, several_steps=True)
    with torch.no_grad():
        whole = make_fakes(training, batch, Turn(2, 2))
        told, seeds = batch.fake_told, batch.seeds
        half = replace(batch, x_T=batch.x_T[2:], fake_told=told[slice(2, None)], seeds=seeds[2:])
        torch.testing.assert_close(make_fakes(training, half, Turn(2, 2)), whole[2:], rtol=1e-4, atol=1e-4)


def test_reports_tell_the_stages(tmp_path):
    reports = list(distill(CLIMB, tmp_path))
    assert [report.turn for report in reports] == [Turn(n, n) for n in (1, 1, 2, 2, 3, 3)]
    assert all(math.isfinite(r.critic_loss + r.student_loss) and r.gradient_norm > 0 for r in reports)


@pytest.mark.parametrize("cut_after", [2, 3])
def test_a_run_that_is_cut_goes_on_over_a_stages_border(tmp_path, cut_after):
    config = replace(CLIMB, step_law="any schedule")
    uncut = [report.critic_loss for report in distill(config, tmp_path / "uncut")]
    with closing(distill(config, tmp_path / "cut")) as run:
        first = [next(run).critic_loss for _ in range(cut_after)]
    assert saved_step(tmp_path / "cut") == cut_after
    assert first + [report.critic_loss for report in distill(config, tmp_path / "cut")] == uncut
    assert differing(saved_state(tmp_path / "uncut"), saved_state(tmp_path / "cut")) == set()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"stages": ()}, "stages is .*; give one or more numbers of steps from 1"),
        ({"stages": (0, 2)}, "stages is .*; give one or more numbers of steps from 1"),
        ({"stage_steps": 0}, "stage_steps is 0; it must be at least 1"),
        ({"step_law": "often"}, "step_law is 'often'; it must be one of any schedule, any step, last step"),
        ({"one_step_share": 2.0}, "one_step_share is 2.0; it must be at least 0 and at most 1"),
    ],
)
def test_stages_that_cannot_be_are_refused_at_once(changed, named):
    with pytest.raises(ValueError, match=named):
        DistillConfig(**changed)


def test_more_steps_than_the_schedule_has_are_refused_before_the_teacher_draws(tmp_path):
    with pytest.raises(ValueError, match="num_inference_steps is 5; it must be from 1 to original_inference_steps"):
        next(train(prepare(replace(TINY, stages=(5,)), tmp_path)))
