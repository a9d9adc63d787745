"""The reals' cache: made once, found again, cut and resumed, and never mistaken for that of another teacher."""

import pytest
import torch
from diffusers import DDIMScheduler

import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.sampling import encode_prompts, generate, latent_shape
from nitro_lab.teacher_samples import fingerprint, load_teacher_samples

PROMPTS = ["a small blue ring", "a large solid red star in the center on a night background", "a green square"]
COUNT, STEPS, GUIDANCE, SEED = 5, 2, 1.0, 0


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Batches of one, and a note of how many samples each call of the teacher makes."""
    made: list[int] = []

    def counted(pipe, prompts, *args):
        made.append(len(prompts))
        return generate(pipe, prompts, *args)

    monkeypatch.setattr(teacher_samples, "BATCH", 1)
    monkeypatch.setattr(teacher_samples, "generate", counted)
    return made


def load(pipe, folder, **changed):
    arguments = {"prompts": PROMPTS, "count": COUNT, "steps": STEPS, "guidance": GUIDANCE, "seed": SEED}
    return load_teacher_samples(pipe, **arguments | changed, folder=folder)


def test_samples_are_the_teachers_own(untrained_pipeline, tmp_path, calls):
    samples = load(untrained_pipeline, tmp_path)
    assert samples.x0.shape == (COUNT, *latent_shape(untrained_pipeline))
    assert len(samples.prompts) == COUNT
    assert set(samples.prompts) <= set(PROMPTS)
    with torch.no_grad():
        told = encode_prompts(untrained_pipeline, samples.prompts)
        empty = encode_prompts(untrained_pipeline, [""])
    for name in ("tokens", "pooled", "sizes"):
        torch.testing.assert_close(getattr(samples.conditioning, name), getattr(told, name), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(getattr(samples.empty, name), getattr(empty, name))
    generator = torch.Generator().manual_seed(SEED)
    torch.randint(len(PROMPTS), (COUNT,), generator=generator)
    noise = torch.randn(samples.x0.shape, generator=generator)
    wanted = generate(untrained_pipeline, samples.prompts, noise, STEPS, GUIDANCE)
    torch.testing.assert_close(samples.x0, wanted, rtol=1e-3, atol=1e-4)


def test_made_once_and_found_again(untrained_pipeline, tmp_path, calls):
    first = load(untrained_pipeline, tmp_path)
    assert calls == [1] * COUNT
    again = load(untrained_pipeline, tmp_path)
    assert calls == [1] * COUNT
    assert torch.equal(first.x0, again.x0)
    assert first.prompts == again.prompts
    assert {file.name.split("-")[0] for file in tmp_path.iterdir()} == {"teacher", "prompts"}


def test_prompts_without_a_sample_come_after_the_others_and_change_nothing(untrained_pipeline, tmp_path, calls):
    first = load(untrained_pipeline, tmp_path)
    more = load(untrained_pipeline, tmp_path, captions=3)
    assert calls == [1] * COUNT
    assert torch.equal(first.x0, more.x0)
    assert more.prompts[:COUNT] == first.prompts
    assert len(more.prompts) == len(more.conditioning.tokens) == COUNT + 3
    with torch.no_grad():
        told = encode_prompts(untrained_pipeline, more.prompts[COUNT:])
    torch.testing.assert_close(more.conditioning[COUNT : COUNT + 3].tokens, told.tokens, rtol=1e-4, atol=1e-5)


def test_cut_and_resumed_is_uncut(untrained_pipeline, tmp_path, calls, monkeypatch):
    uncut = load(untrained_pipeline, tmp_path / "uncut")
    calls.clear()
    counted = teacher_samples.generate

    def cut(*args):
        if len(calls) == 4:
            raise KeyboardInterrupt
        return counted(*args)

    monkeypatch.setattr(teacher_samples, "generate", cut)
    with pytest.raises(KeyboardInterrupt):
        load(untrained_pipeline, tmp_path / "cut")
    monkeypatch.setattr(teacher_samples, "generate", counted)
    resumed = load(untrained_pipeline, tmp_path / "cut")
    assert calls == [1] * COUNT  # four before the cut, and only the one that was missing after it
    assert torch.equal(uncut.x0, resumed.x0)
    names = [{file.name for file in (tmp_path / kind).iterdir()} for kind in ("uncut", "cut")]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    "changed", [{"count": 4}, {"steps": 1}, {"guidance": 3.0}, {"seed": 1}, {"prompts": PROMPTS[:2]}]
)
def test_another_setting_is_another_file(untrained_pipeline, tmp_path, calls, changed):
    first = load(untrained_pipeline, tmp_path)
    other = load(untrained_pipeline, tmp_path, **changed)
    assert len(list(tmp_path.glob("teacher-*"))) == 2
    assert first.x0.shape != other.x0.shape or not torch.equal(first.x0, other.x0)


def test_another_teacher_is_another_file(untrained_pipeline, tmp_path, calls):
    load(untrained_pipeline, tmp_path)
    untrained_pipeline.scheduler = DDIMScheduler.from_config(untrained_pipeline.scheduler.config)
    load(untrained_pipeline, tmp_path)
    assert len(list(tmp_path.glob("teacher-*"))) == 2


def test_fingerprint_is_of_every_number():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model[0].weight[1, 1] += 1e-6
    assert fingerprint(model) != before


def test_default_folder_is_the_users_cache(untrained_pipeline, tmp_path, calls, monkeypatch):
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: tmp_path / name)
    load(untrained_pipeline, None)
    assert len(list((tmp_path / "nitro-lab").glob("teacher-*.safetensors"))) == 1
