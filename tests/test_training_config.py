"""Settings, replaced parts, and the command line that gives them."""

import json
import math
import re
import subprocess
import sys
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
import tyro
from tiny_training import as_options
from tyro.conf import OmitArgPrefixes

from nitro_lab.cli import main
from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.losses import GAN_LOSSES, GANLoss, hinge_d_loss, linear_g_loss
from nitro_lab.discriminators.views import PAPER_VIEWS, VIEWS, LocalView
from nitro_lab.sampling import STEP_SAMPLERS
from nitro_lab.training import config as config_module
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.parts import Parts


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"gan_loss": "wasserstein"}, "gan_loss.*wasserstein.*linear, hinge, non_saturating"),
        ({"mixed_precision": "fp8"}, "mixed_precision.*fp8"),
        ({"step_sampling": "first"}, "step_sampling.*first.*any_schedule"),
        ({"sampled_heads_per_cell": 3, "heads_per_cell": 2}, "sampled_heads_per_cell.*3.*2"),
        ({"refresh_rate": 1.5}, "refresh_rate.*1.5.*1"),
        ({"max_train_steps": 0}, "max_train_steps.*0.*1"),
        ({"learning_rate": -1.0}, "learning_rate.*-1.0"),
        ({"learning_rate": math.nan}, "learning_rate.*nan"),
        ({"max_grad_norm": 0.0}, "max_grad_norm.*0.0"),
        ({"disc_adam_betas": (0.5,)}, r"disc_adam_betas.*\(0.5,\)"),
        ({"adam_betas": (0.5, 1.0)}, r"adam_betas.*\(0.5, 1.0\)"),
        ({"views": ()}, "views.*global_conditional"),
        ({"views": ("globel_conditional",)}, "views.*globel_conditional.*global_conditional"),
        ({"views": PAPER_VIEWS[:1] * 2}, "views"),
        ({"t_star": ()}, "t_star.*999"),
        ({"t_star": (10, 1000)}, "t_star.*1000.*999"),
        ({"stages": (0,)}, "stages.*0"),
        ({"feature_indices": (-1,)}, "feature_indices.*-1"),
    ],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        DistillConfig(**settings)


def test_names_of_choices_and_what_a_run_is_known_by():
    assert set(config_module.get_args(config_module.GANLossName)) == set(GAN_LOSSES)
    assert set(config_module.get_args(config_module.StepSampling)) == set(STEP_SAMPLERS)
    assert config_module.get_args(config_module.ViewName) == tuple(VIEWS)
    assert DistillConfig().views == PAPER_VIEWS
    longer = DistillConfig(max_train_steps=999, checkpointing_steps=7)
    assert longer.key_settings() == DistillConfig().key_settings() != DistillConfig(seed=1).key_settings()


def test_every_setting_is_an_option_with_its_type():
    given = {"teacher": "a", "init_from": "b", "prompts": "c.txt", "t_star": (10, 250, 500), "stages": (1, 3)}
    given |= {"gan_loss": "linear", "mixed_precision": "bf16", "step_sampling": "last_step", "one_step_prob": 0.5}
    given |= {"views": ("local_conditional", "global_unconditional"), "feature_indices": (0, 9)}
    given |= {"student": "full", "lora_targets": ("to_q",), "shifted_timestep": 500}
    given |= {"teacher_num_inference_steps": 4, "teacher_guidance_scale": 1.5}
    given |= {"pairing": "same_noise", "adam_betas": (0.0, 0.9), "disc_adam_betas": (0.25, 0.75)}
    for name, default in asdict(DistillConfig()).items():
        other = {bool: lambda x: not x, int: lambda x: x + 8, float: lambda x: x / 2}.get(type(default))
        given.setdefault(name, other and other(default))
    assert asdict(tyro.cli(OmitArgPrefixes[DistillConfig], args=as_options(given))) == given
    assert tyro.cli(OmitArgPrefixes[DistillConfig], args=[]) == DistillConfig()


BAD_OPTIONS = (
    "--t-star 10 1000",
    "--sampled-heads-per-cell 9",
    "--gan-loss wasserstein",
    "--max-train-steps many",
    "--x",
)


@pytest.mark.parametrize("words", BAD_OPTIONS)
def test_bad_options_end_with_a_message(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        sys.exit(main(["train", *words.split()]))
    assert stopped.value.code in (1, 2)
    assert words.split()[-1] in capsys.readouterr().err


def test_help_does_not_import_torch():
    code = "import sys\nfrom nitro_lab.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    subprocess.run([sys.executable, "-c", code + "assert not {'torch', 'diffusers'} & sys.modules.keys()"], check=True)


class WholeHead(ConvHead):
    def forward(self, feature):
        return super().forward(feature).mean((2, 3))


def test_parts_of_the_wrong_type_are_refused():
    wrong = {"head": 3, "views": {}, "gan_loss": "hinge", "sample_heads": 1, "select_refreshed": 1}
    for name, part in [*wrong.items(), ("views", ("global_conditional",))]:
        with pytest.raises(ValueError, match=f"{name} is {re.escape(repr(part))}"):
            Parts(**{name: part})


def test_parts_replace_what_the_settings_say():
    config = DistillConfig(head_width=16, head_depth=2, gan_loss="linear", views=("local_conditional",), crop_size=4)
    settings, parts = Parts(), Parts(head=WholeHead, views={"tiles": LocalView(size=2)}, gan_loss=GAN_LOSSES["hinge"])
    assert settings.make_head(config)(8).depth == 2
    assert settings.make_loss(config) is GAN_LOSSES["linear"]
    assert settings.make_views(config) == {"local_conditional": LocalView(size=4)}
    assert isinstance(parts.make_head(config)(8), WholeHead)
    assert parts.make_loss(config) is GAN_LOSSES["hinge"]
    assert parts.make_views(config) == {"tiles": LocalView(size=2)}


WIDTH = 8


class Scaled:
    """A head factory with an attribute, a method, and a reference to itself."""

    def __init__(self, scale):
        self.scale, self.itself = scale, self

    def make(self, channels):
        return ConvHead(channels, WIDTH * int(self.scale.sum()))


def test_code_hashes_tell_parts_apart(monkeypatch):
    heads = [ConvHead, WholeHead, *(partial(head, width=width) for head in (ConvHead, WholeHead) for width in (8, 16))]
    losses = [hinge_d_loss, *(lambda real, fake, x=x: (x - real).mean() + fake.mean() for x in (0.9, 0.8))]
    views = [{"a": LocalView(size=4)}, {"a": LocalView(size=8)}, {"b": LocalView(size=4)}]
    parts = [{"head": head} for head in heads] + [{"views": view} for view in views]
    parts += [{"gan_loss": GANLoss(loss, linear_g_loss)} for loss in losses]
    hashes, again = ([str(Parts(**part).code_hashes()) for part in parts] for _ in range(2))
    assert hashes == again
    assert len(set(hashes)) == len(parts)
    assert Parts().code_hashes() == {}
    heads = [Scaled(torch.ones(2)).make, Scaled(torch.ones(3)).make, lambda c: ConvHead(c, 8), lambda c: ConvHead(c, 9)]
    hashes = [str(Parts(head=head).code_hashes()) for head in heads]
    assert len(set(hashes)) == len(heads)
    assert str(Parts(head=Scaled(torch.ones(2)).make).code_hashes()) == hashes[0]
    monkeypatch.setitem(globals(), "WIDTH", 16)  # a variable that the head uses
    assert str(Parts(head=heads[0]).code_hashes()) != hashes[0]


def test_integers_of_any_library_become_pythons():
    config = DistillConfig(seed=np.int64(3), batch_size=torch.tensor(4), t_star=[np.int32(10)], stages=np.array([1, 2]))
    assert json.loads(json.dumps(asdict(config)))["batch_size"] == 4
    assert config == DistillConfig(seed=3, batch_size=4, t_star=(10,), stages=(1, 2))
    for settings in ({"seed": True}, {"batch_size": 4.0}, {"t_star": (True,)}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))} is|of t_star is"):
            DistillConfig(**settings)


def test_functions_used_inside_lambdas_count_for_the_hash(monkeypatch):
    part = Parts(regularizer=lambda batch: (lambda: helper(batch))())
    before = part.code_hashes()
    monkeypatch.setattr(sys.modules[__name__], "helper", lambda batch: 2 * batch)
    assert part.code_hashes() != before


def helper(batch):
    return batch
