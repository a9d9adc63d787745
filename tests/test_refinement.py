"""What a step changes: each measure against a closed form, another library, or the pipeline itself."""

import numpy as np
import pytest
import torch

from nitro_lab.mini.noise import SIZE
from nitro_lab.sampling import Step, decode, latent_shape
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.studies import refinement as study

PROMPTS = ["a small striped blue ring at the top on a meadow background"] * 3


def wave(period: float) -> torch.Tensor:
    """(1, 3, 64, 64), a cosine from left to right with amplitude 1."""
    return torch.cos(2 * torch.pi * torch.arange(64) / period).expand(1, 3, 64, 64)


@pytest.fixture
def student(untrained_pipeline):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler.from_config(untrained_pipeline.scheduler.config)
    return untrained_pipeline


@pytest.mark.parametrize(("period", "share"), [(32, 1.0), (16, 1.0), (4, 0.0)])
def test_a_long_wave_is_layout_and_a_short_one_is_detail(period, share):
    black = torch.zeros(1, 3, 64, 64)
    one = study.change(black, wave(period))
    assert one.coarse == pytest.approx(0.5 * share, abs=1e-6)  # the mean square of a cosine
    assert one.fine == pytest.approx(0.5 * (1 - share), abs=1e-6)


def test_layout_and_detail_add_up_to_the_mean_square():
    before, after = torch.randn(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0)).unbind()
    one = study.change(before, after)
    assert one.coarse + one.fine == pytest.approx(np.mean((after - before).numpy() ** 2), rel=1e-5)


def test_a_pixel_moved_if_any_channel_did():
    before, after = torch.zeros(2, 1, 3, 8, 8).unbind()
    after[0, 1, 2, 3] = study.VISIBLE + 0.01
    after[0, 0, 4, 4] = -(study.VISIBLE + 0.01)
    after[0, :, 0, 0] = study.VISIBLE - 0.01
    assert study.change(before, after).moved == 2 / 64


def test_likeness_is_the_correlation_of_layouts():
    pictures = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    coarse = study.low_pass(pictures)
    wanted = np.corrcoef(coarse.flatten(1).numpy())
    assert study.likeness(pictures[:1], pictures[1:2]).item() == pytest.approx(wanted[0, 1], abs=1e-5)
    shifted = 0.3 * pictures + 0.2 + 0.1 * wave(3)  # contrast, brightness and detail do not count
    torch.testing.assert_close(study.likeness(pictures, shifted), torch.ones(3), rtol=0, atol=1e-2)
    torch.testing.assert_close(study.likeness(pictures, -pictures), -torch.ones(3))


def test_predictions_end_where_the_pipeline_ends(student):
    noise = torch.randn(3, *latent_shape(student), generator=torch.Generator().manual_seed(0))
    made = study.predictions(student, PROMPTS, noise, steps=3, seed=5)
    latents = student(
        prompt=PROMPTS,
        latents=noise.clone(),
        num_inference_steps=3,
        guidance_scale=0,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).images
    assert made.shape == (3, 3, 3, SIZE, SIZE)
    torch.testing.assert_close(made[-1], decode(student, latents), rtol=1e-3, atol=1e-3)
    assert (made[0] - made[1]).abs().max() > 1e-3


def test_predictions_of_many_are_batched(student, monkeypatch):
    noise = torch.randn(3, *latent_shape(student), generator=torch.Generator().manual_seed(0))
    whole = study.predictions(student, PROMPTS, noise, steps=1)
    monkeypatch.setattr(study, "BATCH", 2)
    torch.testing.assert_close(study.predictions(student, PROMPTS, noise, steps=1), whole, rtol=1e-3, atol=1e-3)


def test_what_goes_into_the_unet_is_the_noise_and_then_each_next_latent():
    noise, first, last = torch.randn(3, 2, 4, 8, 8).unbind()
    path = [Step(249, first, first), Step(124, last, last)]
    assert torch.equal(study.noised(noise, path), torch.cat([noise, first]))


def test_the_same_scene_is_told_factor_by_factor():
    class Reader:
        def look(self, pictures):
            return type("Verdict", (), {"factors": pictures[:, 0, 0, :6].long()})

    first = torch.zeros(1, 3, 8, 8)
    second = first.clone()
    second[0, 0, 0, 2] = 1
    assert study.same_scene(Reader(), first, second).tolist() == [[True, True, False, True, True, True]]


def test_seconds_are_for_each_image(student, monkeypatch):
    """The fastest run counts, the first does not."""
    ticks = iter([0, 9, 20, 23, 30, 31, 40, 42])  # a slow first run, then 3, 1 and 2 seconds
    monkeypatch.setattr(study.time, "perf_counter", lambda: next(ticks))
    noise = torch.randn(3, *latent_shape(student), generator=torch.Generator().manual_seed(0))
    assert study.seconds_an_image(student, PROMPTS, noise, 2) == pytest.approx(1 / 3)


def test_exams_are_read_by_model_steps_and_images(tmp_path):
    file = tmp_path / "exams.csv"
    file.write_text("model,steps,images,FD\na,4,10,1\nb,1,10,2\na,1,10,3\na,1,20,4\n")
    exams = study.read_exams(file, 10)
    assert {name: [(row["steps"], row["FD"]) for row in rows] for name, rows in exams.items()} == {
        "a": [("1", "3"), ("4", "1")],
        "b": [("1", "2")],
    }
    with pytest.raises(ValueError, match=r"exams\.csv holds no exam of 30 images; benchmarks/refinement\.py adds some"):
        study.read_exams(file, 30)


def test_changes_are_printed_with_shares(capsys):
    study.print_changes({"step 1 to step 2": study.Change(coarse=0.01, fine=0.03, moved=0.125)})
    assert capsys.readouterr().out.splitlines()[1].split() == ["step", "1", "to", "step", "2", "12.5%", "0.0400", "25%"]
