"""The loop: who gets gradients, what a report holds, and runs that are cut, poisoned, or resumed otherwise."""

import math
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_training import TINY, differing, saved_state, saved_step

import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.distill import Report, distill, train
from nitro_lab.distill_config import DistillConfig
from nitro_lab.ideas import Ideas
from nitro_lab.judging import draw_batch, judge
from nitro_lab.objectives import OBJECTIVES, Objective, hinge_critic, raise_logits
from nitro_lab.policies import draw_least_updated, retire_oldest
from nitro_lab.studio import Training, prepare
from nitro_lab.views import Crops, Whole

PANEL = (3, 10, TINY.per_cell)  # views, feature levels, heads a cell


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def private_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's samples are made once for all tests, and never in the user's folder."""
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: cache)


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return prepare(TINY, tmp_path)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[list[Report], Path]:
    """A whole run, and its folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("uncut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_samples, "user_cache_path", lambda name: cache)
        return list(distill(TINY, folder)), folder


def student_gradients(training: Training) -> list[torch.Tensor]:
    return [weight.grad for weight in training.student.parameters() if weight.grad is not None]


def any_number(tensors: list[torch.Tensor]) -> bool:
    return any(tensor.count_nonzero() > 0 for tensor in tensors)


def test_critics_loss_leaves_the_student_at_exactly_zero(training, monkeypatch):
    silent = Objective(hinge_critic, lambda fake: 0 * fake.mean())
    monkeypatch.setitem(OBJECTIVES, TINY.objective, silent)
    judgement = judge(training, training.pool.draw(1), student_learns=True)
    assert all(gradient.count_nonzero() > 0 for gradient in judgement.gradients)
    assert len(student_gradients(training)) > 100
    assert not any_number(student_gradients(training))


def test_students_loss_leaves_critics_and_backbone_at_exactly_zero(training, monkeypatch):
    silent = Objective(lambda real, fake: 0 * (real.mean() + fake.mean()), raise_logits)
    monkeypatch.setitem(OBJECTIVES, TINY.objective, silent)
    panel = training.pool.draw(1)
    judgement = judge(training, panel, student_learns=True)
    assert all(gradient.count_nonzero() > 0 for gradient in student_gradients(training))
    assert not any_number(judgement.gradients)
    assert all(leaf.grad is None for leaf in panel.leaves())
    assert list(training.backbone.parameters()) == []
    assert all(buffer.grad is None and not buffer.requires_grad for buffer in training.backbone.buffers())


def test_a_step_in_which_only_critics_learn_makes_no_gradient_for_the_student(training):
    judgement = judge(training, training.pool.draw(1), student_learns=False)
    assert any_number(judgement.gradients)
    assert student_gradients(training) == []


def test_reports_are_as_documented(uncut):
    reports, _ = uncut
    assert [report.step for report in reports] == [1, 2, 3, 4]
    for report in reports:
        assert 0 <= report.noise_level < len(TINY.t_star)
        assert report.margins.shape == report.slots.shape == PANEL
        assert report.margins.isfinite().all()
        assert set(report.slots.flatten().tolist()) <= set(range(TINY.slots))
        assert report.refreshed.shape[1:] == (4,)
        assert len(report.refreshed) in (2, 3)  # a hundredth of 240
        assert 0 < report.gradient_norm < math.inf
        assert report.seconds > 0
        assert math.isfinite(report.student_loss)
    assert reports[0].critic_loss == pytest.approx(2, abs=0.5)  # fresh heads under the hinge


def test_checkpoint_holds_what_was_trained(uncut):
    _, folder = uncut
    state = saved_state(folder)
    assert saved_step(folder) == 4
    assert {name.split("/")[0] for name in state} == {"student", "average", "optimizer", "pool", "generator"}
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    assert state["pool/updates"].sum() <= 4 * 30
    assert state["pool/iteration"] == 4
    moved = [name for name in state if name.startswith("student/")]
    averaged = ["average/module." + name.removeprefix("student/") for name in moved]
    assert any(not torch.equal(state[a], state[b]) for a, b in zip(moved, averaged, strict=True))


@pytest.mark.parametrize("cut_after", [1, 2, 3])
def test_closed_and_resumed_is_uncut_bit_for_bit(uncut, tmp_path, cut_after):
    reports, folder = uncut
    with closing(distill(TINY, tmp_path)) as run:
        first = [next(run) for _ in range(cut_after)]
    assert saved_step(tmp_path) == cut_after
    rest = list(distill(TINY, tmp_path))
    assert [r.critic_loss for r in first + rest] == [r.critic_loss for r in reports]
    assert [r.gradient_norm for r in first + rest] == [r.gradient_norm for r in reports]
    assert differing(saved_state(folder), saved_state(tmp_path)) == set()


def test_finished_run_goes_on_when_it_is_given_more(uncut, tmp_path):
    _, folder = uncut
    (tmp_path / "checkpoint.safetensors").write_bytes((folder / "checkpoint.safetensors").read_bytes())
    assert list(distill(TINY, tmp_path)) == []
    assert [report.step for report in distill(replace(TINY, steps=5, save_every=7), tmp_path)] == [5]
    assert saved_step(tmp_path) == 5


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"critic_rate": 0.5}, "critic_rate: saved 0.005, now 0.5"),
        ({"slots": 3, "objective": "linear"}, "objective: saved 'hinge', now 'linear'; slots: saved 2, now 3"),
    ],
)
def test_other_settings_are_refused_by_name(uncut, changed, named):
    _, folder = uncut
    with pytest.raises(ValueError, match=named):
        next(distill(replace(TINY, **changed), folder))
    assert saved_step(folder) == 4


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_runs(tmp_path, objective):
    reports = list(distill(replace(TINY, objective=objective, steps=2), tmp_path))
    assert all(math.isfinite(r.critic_loss + r.student_loss + r.gradient_norm) for r in reports)
    if objective == "linear":
        for report in reports:
            assert report.critic_loss == pytest.approx(-report.margins.mean().item(), abs=1e-5)


def test_a_batch_in_two_parts(tmp_path):
    reports = list(distill(replace(TINY, accumulation=2, per_cell=2, steps=2), tmp_path))
    assert all(math.isfinite(r.critic_loss + r.student_loss + r.gradient_norm) for r in reports)
    assert reports[0].margins.shape == (3, 10, 2)


def test_student_learns_in_every_second_step(tmp_path):
    training = prepare(replace(TINY, student_every=2), tmp_path)
    weight = next(training.student.parameters())
    before = weight.detach().clone()
    moved = []
    for report in train(training):
        moved.append(not torch.equal(weight, before))
        before = weight.detach().clone()
        learned = report.step in (1, 3)
        assert (report.gradient_norm > 0) == learned
        assert math.isnan(report.student_loss) != learned
    assert moved == [True, False, True, False]


def test_critics_learn_in_every_second_step_after_the_warm_up(tmp_path):
    training = prepare(replace(TINY, critic_every=2, warm_up=1, slots=1, refresh=0), tmp_path)
    learned = [int(training.pool.updates.sum()) // 30 for _ in train(training)]
    assert learned == [1, 2, 2, 3]


def test_views_crops_and_heads_are_settings(tmp_path):
    config = replace(TINY, views=("local unconditional",), crop_size=16, crops=3, depth=2, vectorize=False, steps=1)
    training = prepare(config, tmp_path)
    shapes = []
    training.backbone.unet.conv_in.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    (report,) = train(training)
    assert report.margins.shape == (1, 10, 1)
    assert {(shape[0], *shape[2:]) for shape in shapes} == {(3 * TINY.batch_size, 16, 16)}
    with pytest.raises(
        ValueError, match="1×1 is too small for a head of depth 1, which needs 2; use less depth, or larger"
    ):
        next(train(prepare(replace(config, crop_size=4, depth=1), tmp_path / "small")))
    layers = [layer for layer in training.pool.heads[0].template.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.stride[0] for layer in layers] == [2, 2, 1]


def test_a_head_of_ones_own(tmp_path):
    class Mean(torch.nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.read = torch.nn.Linear(channels, 1)

        def forward(self, feature):
            return self.read(feature.mean((2, 3)))

    training = prepare(replace(TINY, steps=2), tmp_path, Ideas(head=Mean))
    assert all(math.isfinite(report.critic_loss) for report in train(training))
    assert training.pool.heads[0].size == training.backbone.channels[0] + 1


def test_heads_with_dropout_are_resumed_bit_for_bit(tmp_path):
    """Their chance is torch's global one."""

    def head(channels):
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Conv2d(channels, 1, 1))

    uncut = [report.critic_loss for report in train(prepare(TINY, tmp_path / "uncut", Ideas(head=head)))]
    torch.manual_seed(123)
    with closing(train(prepare(TINY, tmp_path / "cut", Ideas(head=head)))) as run:
        first = [next(run).critic_loss]
    rest = [report.critic_loss for report in train(prepare(TINY, tmp_path / "cut", Ideas(head=head)))]
    assert first + rest == uncut


def test_reports_tell_the_critics_gradient_too(uncut):
    reports, _ = uncut
    assert all(0 < report.critic_gradient_norm < math.inf for report in reports)


def poison(samples: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's samples become not-a-number."""
    samples.fill_(float("nan"))


def poison_gradient(samples: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The critics' loss stays as it is, but its gradient is 0 · ∞."""
    broken = Objective(lambda real, fake: hinge_critic(real, fake) + (0 * real.mean()).sqrt(), raise_logits)
    monkeypatch.setitem(OBJECTIVES, TINY.objective, broken)


@pytest.mark.parametrize("harm", [poison, poison_gradient])
def test_not_a_number_stops_the_run_and_the_checkpoint_is_from_before(tmp_path, monkeypatch, harm):
    training = prepare(replace(TINY, save_every=1), tmp_path)
    run = train(training)
    next(run)
    next(run)
    harm(training.samples.x0, monkeypatch)
    pool = {name: value.clone() for name, value in training.pool.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"(?s)Step 3: .*nan.* last checkpoint is .*new folder"):
        next(run)
    assert saved_step(tmp_path) == 2
    state = saved_state(tmp_path)
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    assert differing(pool, training.pool.state_dict()) == set()
    assert all(torch.equal(value, state[f"student/{name}"]) for name, value in training.student.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"objective": "wasserstein"}, "objective is 'wasserstein'; it must be one of linear, hinge, non-saturating"),
        ({"mixed_precision": "fp8"}, "mixed_precision is 'fp8'"),
        ({"per_cell": 3, "slots": 2}, "per_cell is 3; it must be at least 1 and at most 2"),
        ({"refresh": 1.5}, "refresh is 1.5; it must be at least 0 and at most 1"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"student_rate": -1.0}, "student_rate is -1.0"),
        ({"student_rate": math.nan}, "student_rate is nan; it must be at least 0"),
        ({"clip": 0.0}, "clip is 0.0; it must be above 0"),
        ({"critic_betas": (0.5,)}, r"critic_betas is \(0.5,\); give two numbers, each at least 0 and below 1"),
        ({"student_betas": (0.5, 1.0)}, r"student_betas is \(0.5, 1.0\); give two numbers"),
        ({"views": ()}, "views is .*; give one or more of global conditional, .*global unconditional, each once"),
        ({"views": ("local",)}, "views is .*; give one or more of global conditional"),
        ({"t_star": ()}, "t_star is .*; give one or more timesteps from 0 to 999"),
        ({"t_star": (10, 1000)}, "t_star is .*; give one or more timesteps from 0 to 999"),
        ({"batch_size": 4, "accumulation": 3}, "batch_size 4 cannot be split into 3 equal parts"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(changed, named):
    with pytest.raises(ValueError, match=named):
        DistillConfig(**changed)


def test_prompts_come_from_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    config = replace(TINY, prompts=str(file), steps=1)
    file.write_text("a small blue ring\n\n  a green square \n")
    training = prepare(config, tmp_path)
    assert set(training.samples.prompts) == {"a small blue ring", "a green square"}
    list(train(training))
    file.write_text("a small blue ring\n")
    with pytest.raises(ValueError, match="prompts' words: saved"):
        list(distill(replace(config, steps=2), tmp_path))
    file.write_text("\n")
    with pytest.raises(ValueError, match=r"prompts\.txt holds no prompt; write one a line"):
        prepare(config, tmp_path)


def test_every_setting_has_a_meaning():
    assert all(f.metadata["meaning"] for f in DistillConfig.__dataclass_fields__.values())


def test_only_the_chosen_levels_are_judged(tmp_path):
    training = prepare(replace(TINY, levels=(9, 0), steps=1), tmp_path)
    (report,) = train(training)
    assert report.margins.shape == report.slots.shape == (3, 2, 1)
    assert [flat.template.layers[0].in_channels for flat in training.pool.heads] == [96, 64]
    with pytest.raises(ValueError, match=r"levels is \(10,\); the backbone has levels 0 to 9"):
        prepare(replace(TINY, levels=(10,)), tmp_path)


def test_ideas_take_the_place_of_what_the_config_says(tmp_path):
    views = {"whole": Whole(), "tiles": Crops(size=4, number=1), "other tiles": Crops(size=8)}
    silent = Objective(hinge_critic, lambda fake: 0 * fake.mean())
    head = partial(torch.nn.Conv2d, out_channels=1, kernel_size=1)
    ideas = Ideas(head=head, views=views, objective=silent, draw=draw_least_updated, retire=retire_oldest)
    training = prepare(replace(TINY, steps=3, refresh=0.5), tmp_path, ideas)
    reports = list(train(training))
    assert all(report.gradient_norm == 0 for report in reports)
    assert reports[0].margins.shape == (3, 10, 1)
    assert training.pool.heads[0].size == 65
    born = training.pool.census()["born"]
    assert born.min() >= 2  # 3 halves: none of the first survives


def test_each_side_has_betas_of_its_own(tmp_path):
    training = prepare(replace(TINY, student_betas=(0.0, 0.9), critic_betas=(0.2, 0.8)), tmp_path)
    assert training.optimizer.param_groups[0]["betas"] == (0.0, 0.9)
    panel = training.pool.draw(0)
    panel.learn([torch.ones_like(leaf) for leaf in panel.leaves()], 1e-3, training.config.critic_betas)
    _, first, second = (state[panel.rows[0][0]] for state in training.pool.state(0))
    torch.testing.assert_close(first, torch.full_like(first, 0.8))
    torch.testing.assert_close(second, torch.full_like(second, 0.2))


@pytest.mark.parametrize("shared", [True, False])
def test_a_real_and_a_fake_are_hidden_by_one_noise_or_each_by_its_own(tmp_path, shared):
    batch = draw_batch(prepare(replace(TINY, shared_noise=shared), tmp_path))
    assert torch.equal(batch.real_noise, batch.fake_noise) == shared
    assert not any(torch.equal(batch.x_T, noise) for noise in (batch.real_noise, batch.fake_noise))


def test_the_loop_gives_the_critics_their_betas(uncut, tmp_path):
    list(distill(replace(TINY, critic_betas=(0.0, 0.9)), tmp_path))
    pools = (saved_state(tmp_path), saved_state(uncut[1]))
    assert any(name.startswith("pool/first") for name in differing(*pools))


def test_settings_that_came_later_leave_older_runs_as_they_were():
    later = {"levels", "refresh_clears", "separate_chance", "shared_noise", "student_betas", "critic_betas"}
    assert not later & TINY.outcome().keys()
    assert replace(TINY, levels=(1,), refresh_clears=False).outcome().items() >= {"levels": (1,)}.items()
