"""`compare` with a process for each of two pretended GPUs; notebook 05 compares on one."""

import math

import joblib
from tiny_training import tiny

import pretend_cuda
from nitro_lab.evaluation import eval_set, two_sample
from nitro_lab.experiments.compare import compare

CONFIG = tiny(batch_size=2, feature_indices=(3,), views=("global_conditional",))


def pretend_two_gpus():
    """For a worker process of joblib: two GPUs, and what the fixture `gpu` makes shorter."""
    pretend_cuda.on(devices=2)
    eval_set.TEACHER_STEPS = two_sample._EPOCHS = 1


def test_two_gpus(tmp_path):
    pretend_cuda.off()
    pretend_cuda.on(devices=2)
    with joblib.parallel_config("loky", initializer=pretend_two_gpus):
        results = list(compare({"paper": {}}, 3, 1, tmp_path, num_images=12, config=CONFIG))  # one worker does two
    assert [math.isfinite(result.metrics["FD"]) for result in results] == [True] * 3
