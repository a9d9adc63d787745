"""Discriminators before training: shapes of their logits, parameters, first logits, and the cost of a step."""

import pytest
import torch
from small_pool import MeanHead
from tiny_training import TINY
from torch import nn
from training_fixtures import cache, private_cache  # noqa: F401

from nitro_lab.discriminators.checks import HeadError
from nitro_lab.discriminators.zoo import ZOO, ProjectionHead
from nitro_lab.randomness import seeded
from nitro_lab.training.state import prepare_training
from nitro_lab.training.step import sample_features
from workbook.head_report import logit_shapes, report_head, step_costs


@pytest.fixture(scope="module")
def state(private_cache, tmp_path_factory):  # noqa: F811
    return prepare_training(TINY, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def features(state):
    return sample_features(state, t_star=250)


def test_features_depend_on_the_seed_only(state, features):
    before = state.generator.get_state()
    again, other = (sample_features(state, t_star=250, seed=seed) for seed in (0, 1))
    assert torch.equal(before, state.generator.get_state())
    assert torch.equal(features[0][0].maps[0], again[0][0].maps[0])
    assert not torch.equal(features[0][0].maps[0], other[0][0].maps[0])


def test_logits_are_those_of_new_heads(state, features):
    report = report_head(state, lambda width: seeded(0, lambda: MeanHead(width)), *features, repeats=1)
    assert report.num_parameters == [width + 1 for width in state.backbone.channels]
    assert report.real.shape == report.fake.shape == (3, len(state.backbone.channels), TINY.batch_size)
    for view, views in enumerate(features[0]):
        for level, feature in enumerate(views.maps):
            with torch.no_grad():
                logits = seeded(0, lambda feature=feature: MeanHead(feature.shape[1]))(feature)
            expected = logits.view(-1, TINY.batch_size).mean(0)  # over crops
            torch.testing.assert_close(report.real[view, level], expected, rtol=1e-4, atol=1e-5)


def test_heads_of_the_settings_and_heads_with_text(state, features):
    paper, text = (report_head(state, head, *features, repeats=1) for head in (None, ProjectionHead))
    assert paper.num_parameters == state.pool.head_sizes
    assert text.real.shape == paper.real.shape


def test_shapes_of_logits(state, features):
    shapes = logit_shapes(lambda channels: nn.Conv2d(channels, 2, 2, stride=2), features[0])
    assert shapes[TINY.batch_size, 64, 16, 16] == (TINY.batch_size, 2, 8, 8)
    with pytest.raises(HeadError, match="BatchNorm"):
        logit_shapes(nn.BatchNorm2d, features[0])


def test_costs_of_a_step(private_cache):  # noqa: F811
    costs = step_costs(TINY, {"paper": {}, "mixed": ZOO["Projected GAN"], "head": MeanHead}, steps=1)
    assert costs["levels"].to_dict() == {"paper": 10, "mixed": 1, "head": 10}
    assert costs["heads"].tolist() == [240, 1, 240]  # one head that sees all levels, at one noise level, in one view
    assert costs["heads per step"].tolist() == [30, 1, 30]
    assert costs["ratio"].iloc[0] == 1
    assert (costs["seconds per step"] > 0).all()
    with pytest.raises(HeadError, match="BatchNorm"):
        step_costs(TINY, {"wrong": nn.BatchNorm2d})
