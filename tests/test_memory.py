"""What a training needs on a GPU: the counts of tensors without data against torch's allocator and closed forms."""

from contextlib import nullcontext

import pytest
import torch
from tiny_sdxl import make_unet
from tiny_training import tiny
from torch.profiler import ProfilerActivity, profile

from nitro_lab.cli import main
from nitro_lab.memory import cards_that_fit, training_memory, uninitialized_state
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.step import training_step

GB = 1_000_000_000


def allocated_in_a_step(config: DistillConfig, latent_size: int) -> int:
    """The peak of what torch's allocator gives out in a step with data, once the optimizer has its moments."""
    state = uninitialized_state(config, latent_size, nullcontext())
    samples = state.samples
    tensors = (*state.student.parameters(), *state.backbone.buffers(), *vars(samples.embeds).values())
    for tensor in (*tensors, samples.x0, samples.x_T):
        tensor.data.fill_(0.01)
    training_step(state, 0)
    state.optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        training_step(state, 0)
    events = list(profiler.profiler.kineto_results.experimental_event_tree())
    for event in events:  # grows
        events += event.children
    changes = [(e.start_time_ns, e.extra_fields.alloc_size) for e in events if hasattr(e.extra_fields, "alloc_size")]
    alive = torch.tensor([size for _, size in sorted(changes)]).cumsum(0)
    return int(alive.max())


@pytest.mark.parametrize(
    "settings",
    [
        {"student": "full"},
        {"student": "lora", "gradient_checkpointing": True, "view_by_view": True},
    ],
)
def test_counts_are_those_of_torch(settings, tmp_path):
    unet = make_unet()
    unet.save_config(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text("{}")
    config = tiny(teacher=str(tmp_path), lora_rank=4, refresh_rate=0.0, **settings)
    uses = training_memory(config, 32)
    passing = uses.pop("activations") + uses.pop("gradients", 0)
    assert passing == pytest.approx(allocated_in_a_step(config, 32), rel=0.05)
    state = uninitialized_state(config, 32, nullcontext())
    size, trained = (4 * sum(p.numel() for p in parameters) for parameters in (unet.parameters(), state.trained))
    expected = {"student, trained": trained, "AdamW's moments": 2 * trained, "average (EMA)": trained}
    expected["pool of heads and their moments"] = uses["pool of heads and their moments"]
    assert uses["pool of heads and their moments"] == pytest.approx(3 * 4 * state.pool.num_parameters, rel=0.01)
    if settings["student"] == "full":
        encoder = 4 * sum(buffer.numel() for buffer in state.backbone.buffers())
        assert uses == expected | {"backbone": encoder, "teacher": size}
    else:
        assert uses == expected | {"student, frozen": size}


def test_sdxl_fits_a_small_card(capsys):
    """2,567,463,684 parameters in half precision, a LoRA of rank 64 on the attention, 480 heads; batch size 1."""
    assert main(["memory"]) == 0
    printed = capsys.readouterr().out
    uses = {use: float(size) for size, use in (line.split(" GB  ") for line in printed.splitlines()[:-1])}
    assert uses["student, frozen"] == pytest.approx(2 * 2_567_463_684 / GB, abs=0.01)
    assert uses["AdamW's moments"] == pytest.approx(2 * uses["student, trained"], abs=0.01)
    assert uses["at the peak of a step"] == pytest.approx(10.12, rel=0.05)
    assert "16 GB" in printed.splitlines()[-1]


def test_a_card_also_holds_cuda():
    assert cards_that_fit(11 * GB) == [12, 16, 24, 48, 80]
    assert cards_that_fit(12 * GB) == [16, 24, 48, 80]
    assert cards_that_fit(90 * GB) == []


def test_unknown_teachers_are_refused(capsys):
    assert main(["memory", "--teacher", "minni"]) == 1
    assert "minni" in capsys.readouterr().err
