"""Mixed precision and compilation change the speed and the rounding of a run, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import TINY, saved_state

import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.distill import Report, distill, train
from nitro_lab.judging import judge
from nitro_lab.studio import prepare

CONFIG = replace(TINY, steps=1, views=("global conditional",))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Report], Path]:
    """The reports of a run in float32, and the cache of the teacher's samples."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_samples, "user_cache_path", lambda name: cache)
        return list(distill(CONFIG, tmp_path_factory.mktemp("plain"))), cache


@pytest.fixture
def reference(plain, monkeypatch) -> list[Report]:
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: plain[1])
    return plain[0]


def test_bfloat16_points_the_same_way_and_keeps_weights_in_float32(reference, tmp_path):
    """The critics' gradient nearly agrees; the student's has gone through a UNet and back, and is much noisier."""
    config = replace(CONFIG, width=32, t_star=(10,))
    sides = []
    for precision in ("no", "bf16"):
        training = prepare(replace(config, mixed_precision=precision), tmp_path / precision)
        judgement = judge(training, training.pool.draw(0), student_learns=True)
        student = [weight.grad for weight in training.student.parameters()]
        sides.append([torch.cat([g.flatten() for g in gradients]) for gradients in (student, judgement.gradients)])
    (student, critics), (coarse_student, coarse_critics) = sides
    assert torch.cosine_similarity(critics, coarse_critics, 0) > 0.99
    assert torch.cosine_similarity(student, coarse_student, 0) > 0.7
    assert not torch.equal(student, coarse_student)
    list(train(training))
    kept = {name: value for name, value in saved_state(tmp_path / "bf16").items() if value.is_floating_point()}
    assert {value.dtype for value in kept.values()} == {torch.float32}


def test_a_compiled_run_gives_the_same_numbers(reference, tmp_path, monkeypatch):
    """Traced as for any device, without the code generators, which take minutes on a CPU."""
    compiled, plain_compile = [], torch.nn.Module.compile

    def trace(module, *arguments, **options):
        compiled.append(module)
        plain_compile(module, *arguments, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    torch._dynamo.reset()
    reports = list(distill(replace(CONFIG, compile=True), tmp_path))
    assert len(compiled) == 2  # student and backbone
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for report, wanted in zip(reports, reference, strict=True):
        assert report.critic_loss == pytest.approx(wanted.critic_loss, rel=1e-4)
        assert report.gradient_norm == pytest.approx(wanted.gradient_norm, rel=1e-3)
