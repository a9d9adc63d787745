"""The shipped scene classifier."""

import torch

from nitro_lab.evaluation.metrics import factor_accuracy
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, sample_scenes, split_scenes

COUNT = 600


def test_predicts_the_factors_of_held_out_renders_and_counts_objects():
    classifier = load_scene_classifier()
    generator = torch.Generator().manual_seed(11)
    scenes = sample_scenes(split_scenes()[1], COUNT, generator)
    prediction = classifier.predict(render(scenes, generator))
    assert prediction.features.shape == (COUNT, 128)
    accuracy = factor_accuracy(prediction.factors, scenes, tuple(FACTORS))
    assert min(accuracy[name] for name in FACTORS) >= 0.98, accuracy
    assert (prediction.counts == 1).double().mean() >= 0.97
    counts = torch.arange(COUNT) % 3 + 1
    assert (classifier.predict(render(scenes, generator, counts)).counts == counts).double().mean() >= 0.9
