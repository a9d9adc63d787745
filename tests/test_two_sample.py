"""The classifier two-sample test finds what differs, and nothing where nothing does; random features order blurs."""

import math

import pytest
import torch
import torch.nn.functional as F

from nitro_lab.evaluation import two_sample
from nitro_lab.evaluation.metrics import frechet_distance, random_features
from nitro_lab.evaluation.two_sample import told_apart
from nitro_lab.mini.render import render
from nitro_lab.mini.world import split_scenes


def renders(seed: int, count: int = 256) -> torch.Tensor:
    """The same captions at every seed."""
    return render(split_scenes()[1][:count], torch.Generator().manual_seed(seed))


def blurred(images: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def test_what_is_plainly_different_is_told_apart():
    mean, _ = told_apart(renders(0), blurred(renders(0)), num_seeds=2)
    assert mean >= 0.99


def test_samples_of_one_distribution_are_not():
    mean, half = told_apart(renders(0), renders(1))
    assert abs(mean - 0.5) <= max(half, 0.05)
    assert told_apart(renders(0), renders(0)) == (0.5, 0.0)


def test_a_seed_gives_one_result_and_the_global_generator_is_left_alone():
    first, second = renders(0, 24), blurred(renders(1, 24))
    state = torch.get_rng_state()
    mean, half = told_apart(first, second, num_seeds=1)
    assert math.isnan(half)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    with torch.no_grad():
        assert told_apart(first, second, num_seeds=1)[0] == mean


def test_a_caption_is_never_in_both_halves(monkeypatch):
    seen = []
    monkeypatch.setattr(two_sample, "_train", lambda network, pairs, generator: seen.append(pairs[:, 0, 0, 0, 0]))
    groups = torch.arange(6).repeat(5)
    images = groups.view(-1, 1, 1, 1).expand(-1, 3, 8, 8) / 10
    told_apart(images, -images, groups)
    assert len(seen) == 3
    assert all(torch.bincount((values * 10).round().long()).tolist().count(5) == 3 for values in seen)
    assert len(torch.stack(seen).unique(dim=0)) > 1  # other halves at each seed


@pytest.mark.parametrize(("rows", "groups"), [(3, None), (8, torch.zeros(8, dtype=torch.long))])
def test_too_few_pairs_are_refused(rows, groups):
    with pytest.raises(ValueError, match="4 or more pairs"):
        told_apart(torch.zeros(rows, 3, 8, 8), torch.ones(rows, 3, 8, 8), groups)


def test_distance_in_random_features_is_one_of_detail():
    reference = random_features(renders(0))
    assert reference.shape == (256, 72)
    again, soft, softer = renders(1), blurred(renders(1)), blurred(blurred(renders(1)))
    for seed in (0, 1):
        features = [random_features(x, seed) for x in (renders(0), again, soft, softer)]
        same, blur, more = (frechet_distance(features[0], other) for other in features[1:])
        assert same < 0.1 * blur < 0.1 * more
    assert torch.equal(random_features(renders(0), batch_size=100), reference)
