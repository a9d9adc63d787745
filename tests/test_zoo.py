"""The zoo: each entry trains, is short and fair; heads at every feature size; what each idea and each part does."""

import ast
import math
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_training import TINY, score_new_batch
from torch import nn
from training_fixtures import cache, private_cache  # noqa: F401

from nitro_lab.backbones import FrozenUNetEncoder, check_backbone
from nitro_lab.discriminators.checks import check_heads
from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.inputs import bind_text_dim
from nitro_lab.discriminators.pool import DiscriminatorPool, ViewFeatures
from nitro_lab.discriminators.zoo import (
    IDEAS,
    ZOO,
    CrossLevelMixing,
    GramHead,
    MinibatchStdHead,
    ProjectionHead,
    SpectralHead,
    entries,
    feature_matching,
    mismatched_captions,
    untrained,
)
from nitro_lab.sampling import PromptEmbeds
from nitro_lab.training.parts import Parts
from nitro_lab.training.state import TrainState, prepare_training
from nitro_lab.training.step import training_step

LEVELS = [(64, 16), (64, 8), (80, 8), (80, 4), (96, 4), (64, 4), (96, 2)]  # the miniature's, of latents and crops
TEXT_DIM = 7
PART_NAMES = {field.name for field in fields(Parts)}
SOURCE = Path(entries.__file__)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def prepare(name: str, folder: Path, **changes) -> TrainState:
    """A tiny training of an entry."""
    variant = ZOO[name] | changes
    parts = {key: value for key, value in variant.items() if key in PART_NAMES and not isinstance(value, str | tuple)}
    settings = {key: value for key, value in variant.items() if key not in parts}
    return prepare_training(replace(TINY, **settings), folder, Parts(**parts))


@pytest.mark.parametrize("name", ZOO)
def test_one_step_of_each_entry_changes_student_and_heads_only(name, tmp_path):
    state = prepare(name, tmp_path)
    modules = {"student": state.student, "pool": state.pool}
    before = {key: [x.clone() for x in module.state_dict().values()] for key, module in modules.items()}
    frozen = [x.clone() for module in (state.backbone, state.pipe.vae) for x in module.buffers()]
    levels = range(state.pool.shape[2])
    constants = [state.pool.constants(level).clone() for level in levels]
    params = [state.pool.level_state(level)[0].clone() for level in levels]
    report = training_step(state, 0)
    assert math.isfinite(report.disc_loss + report.student_loss)
    assert min(report.grad_norm, report.disc_grad_norm) > 0
    for key, module in modules.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[key], module.state_dict().values(), strict=True))
    assert all(not torch.equal(state.pool.level_state(level)[0], params[level]) for level in levels)
    after = [x for module in (state.backbone, state.pipe.vae) for x in module.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(frozen, after, strict=True))
    assert not list(state.backbone.parameters())
    if not report.refreshed.numel():
        assert all(torch.equal(state.pool.constants(level), constants[level]) for level in levels)


def test_entries_have_at_most_25_lines_with_all_that_is_their_own():
    tree = ast.parse(SOURCE.read_text())
    own = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    public = [name for name, node in own.items() if isinstance(node, ast.FunctionDef) and not name.startswith("_")]
    assert len(public) == len(ZOO) == 12
    for name in public:
        used, pending = set(), [name]
        while pending:
            used.add(current := pending.pop())
            names = {node.id for node in ast.walk(own[current]) if isinstance(node, ast.Name)}
            pending += (names & own.keys()) - used
        assert sum(own[n].end_lineno - own[n].lineno + 1 for n in used) <= 25, used
        assert ast.get_docstring(own[name]), name


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"NitroFusion"}))
def test_methods_without_a_pool_have_one_head_and_the_whole_latent(name):
    settings = ZOO[name]
    assert settings["heads_per_cell"] == settings["sampled_heads_per_cell"] == len(settings["t_star"]) == 1
    assert settings["refresh_rate"] == 0
    assert settings["views"] == ("global_conditional",)
    assert settings["gan_loss"]  # does not depend on the defaults


def test_parts_of_entries_have_hashes_that_tell_them_apart():
    hashes = []
    for variant in ZOO.values():
        parts = {k: v for k, v in variant.items() if k in PART_NAMES and not isinstance(v, str | tuple)}
        settings = {k: v for k, v in variant.items() if k not in parts}
        hashes.append(str((sorted(Parts(**parts).code_hashes().items()), sorted(settings.items()))))
    assert len(set(hashes)) == len(ZOO)


@pytest.mark.parametrize("head", [*IDEAS.values(), ConvHead, entries.PCMHead, entries.R3Head])
def test_heads_pass_the_checks_at_every_level_and_vectorized_equals_one_after_another(head):
    make, pooled = bind_text_dim(head, TEXT_DIM), noise(4, TEXT_DIM)
    features = [noise(4, channels, side, side) for channels, side in LEVELS]
    check_heads(make, [ViewFeatures(features, pooled)])
    scores, gradients = [], []
    for vectorize in (True, False):
        generator, channels = torch.Generator().manual_seed(1), [channels for channels, _ in LEVELS]
        panel = DiscriminatorPool(make, channels, generator, 1, 1, 3, vectorize=vectorize).all_heads(0)
        scores.append(panel.score([ViewFeatures(features, pooled)]))
        loss = torch.stack([logits.square().mean() for logits in scores[-1]]).sum()
        gradients.append(torch.autograd.grad(loss, panel.parameters()))
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
    assert all((gradient != 0).any(1).all() for gradient in gradients[0])


def test_spectral_head_does_not_see_translations():
    head, feature = SpectralHead(3), noise(2, 3, 8, 8)
    torch.testing.assert_close(head(feature.roll((3, 5), (2, 3))), head(feature), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(head(feature.flip(1)), head(feature), atol=1e-3)


def test_gram_head_scores_correlations_of_channels():
    head, feature = GramHead(3), noise(2, 3, 8, 8)
    rows = head.reduce(feature).flatten(2)
    gram = torch.einsum("bip,bjp->bij", rows, rows) / 64
    torch.testing.assert_close(head(feature), head.score(gram.flatten(1)))


def test_minibatch_std_is_numpy_s():
    head, feature = MinibatchStdHead(3), noise(5, 3, 4, 4)
    inputs = []
    head.layers.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    head(feature)
    assert inputs[0][:, 3].unique().item() == pytest.approx(feature.numpy().std(0).mean(), rel=1e-5)


def test_projection_head_is_linear_in_the_prompt_of_its_view():
    make, prompts = bind_text_dim(ProjectionHead, TEXT_DIM), noise(2, 4, TEXT_DIM)
    panel = DiscriminatorPool(make, [3], torch.Generator().manual_seed(0), 1, 2, 1).all_heads(0)
    feature, module = noise(4, 3, 4, 4), ProjectionHead(3, TEXT_DIM)
    scores = panel.score([ViewFeatures([feature], pooled) for pooled in prompts])
    for logits, params, pooled in zip(scores, panel.parameters(), prompts, strict=True):
        nn.utils.vector_to_parameters(params[0].detach(), module.parameters())
        torch.testing.assert_close(logits.flatten(), module(feature, pooled).flatten())
        without = module(feature, torch.zeros(4, TEXT_DIM))
        torch.testing.assert_close(module(feature, 2 * pooled) - without, 2 * (module(feature, pooled) - without))
    assert not torch.allclose(module(feature, pooled), without)
    with pytest.raises(ValueError, match=r"pooled_prompt_embeds.*ViewFeatures"):
        panel.score([ViewFeatures([feature])] * 2)


def embeds(count: int) -> PromptEmbeds:
    return PromptEmbeds(noise(count, 8, 128), noise(count, 64), torch.tensor([[64, 64, 0, 0, 64, 64.0]] * count))


def test_backbones_fit_their_channels_and_are_what_they_say(untrained_pipeline):
    latents, teacher = noise(2, 4, 16, 16), FrozenUNetEncoder(untrained_pipeline.unet)
    first, again = untrained(untrained_pipeline), untrained(untrained_pipeline)
    mixed = CrossLevelMixing(teacher, levels=(2, 5, 9), width=8)
    for backbone in (first, mixed):
        check_backbone(backbone, latents, embeds(2))
        assert not list(backbone.parameters())
    timesteps = torch.tensor([9, 500])
    maps = [backbone(latents, timesteps, embeds(2)) for backbone in (teacher, first, again)]
    assert all(torch.equal(a, b) for a, b in zip(maps[1], maps[2], strict=True))
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in zip(maps[0], maps[1], strict=True))
    other = CrossLevelMixing(teacher, levels=(2, 5, 9), width=8, seed=1)
    sizes = [x.shape[2] for x in mixed(latents, timesteps, embeds(2))]
    assert sizes == [32, 16, 8]
    assert not torch.equal(mixed.channel_mixing[0].weight, other.channel_mixing[0].weight)
    assert not torch.equal(mixed.channel_mixing[0].weight, mixed.scale_mixing[0].weight)


def test_no_mismatched_caption_is_its_own():
    own = PromptEmbeds(*(torch.arange(5.0)[:, None] for _ in range(3)))
    x0, wrong = mismatched_captions(noise(5, 4, 2, 2), own)
    assert torch.equal(x0, noise(5, 4, 2, 2))
    assert (wrong.pooled_prompt_embeds != own.pooled_prompt_embeds).all()
    assert torch.equal(wrong.prompt_embeds, wrong.pooled_prompt_embeds)


def test_feature_matching_is_0_for_equal_means_and_reaches_the_student(tmp_path):
    state = prepare("PCM", tmp_path, student_loss=partial(feature_matching, weight=2.0))
    panel = state.pool.sample(0, 1)
    batch, _ = score_new_batch(state, panel, training_step(state, 0).student_step, update_student=True)
    pairs = list(zip(batch.real[0].maps, batch.fake[0].maps, strict=True))
    mean = sum(((f.mean(0) - r.mean(0)) ** 2).mean() for r, f in pairs) / len(pairs)
    each = sum(((f - r) ** 2).mean() for r, f in pairs) / len(pairs)
    torch.testing.assert_close(feature_matching(batch, 2.0), 2 * mean)
    torch.testing.assert_close(feature_matching(batch, paired=True), each)
    shuffled = replace(batch, fake=[view.changed(lambda x: x.flip(0)) for view in batch.real])
    assert feature_matching(shuffled) < 1e-10 < feature_matching(shuffled, paired=True)
    feature_matching(batch).backward()
    assert any(p.grad is not None and p.grad.any() for p in state.student.parameters())
