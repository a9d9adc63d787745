"""The parts of a training that can be replaced by code: backbone, heads, views, losses, optimizer, sampling policies.

Settings are for what a name or a number can say, `Parts` for the rest. A class of ten lines is enough:

    TrainingRun(DistillConfig(), Path("build/mine"), Parts(head=MyHead))
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from diffusers import StableDiffusionXLPipeline as Pipeline
from torch import Tensor, nn

from nitro_lab.backbones import Backbone, FrozenUNetEncoder
from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.losses import GAN_LOSSES, GANBatch, GANLoss
from nitro_lab.discriminators.optimizers import HeadOptimizer, adamw
from nitro_lab.discriminators.selection import RefreshPolicy, SamplePolicy, TStarLaw, refresh_uniform, sample_uniform
from nitro_lab.discriminators.views import View, make_view
from nitro_lab.sampling import PromptEmbeds
from nitro_lab.training.code_hash import code_hash
from nitro_lab.training.config import DistillConfig

__all__ = ["BackboneFactory", "GANTerm", "HeadFactory", "Negatives", "Parts", "Variant", "apply_variant"]

BackboneFactory = Callable[[Pipeline], Backbone]
HeadFactory = Callable[..., nn.Module]
GANTerm = Callable[[GANBatch], Tensor]
Negatives = Callable[[Tensor, PromptEmbeds], tuple[Tensor, PromptEmbeds]]


@dataclass(frozen=True)
class Parts:
    """Parts of a training; None stands for what the settings say. A part of the wrong type raises a ValueError.

    Args:
        head: makes one discriminator head from a channel count, in place of `head_width` and `head_depth`; what a
            head may do is described in `nitro_lab.discriminators.checks`.
        views: name -> view, in place of `views`, `crop_size` and `crops_per_image`.
        gan_loss: in place of the loss that the settings name.
        sample_heads, select_refreshed: which heads are sampled and which are re-initialized, see
            `nitro_lab.discriminators.selection`.
        regularizer: from a `GANBatch` to a scalar, summed over heads, which is added to L_D, as a gradient penalty is.
        student_loss: from a `GANBatch` to a scalar that is added to L_G, as feature matching is.
        negatives: from real x0 (B, C, H, W) and their embeddings to further samples that the heads shall reject, such
            as the same x0 with other captions; L_D is then the mean of the losses against fakes and against these.
        sample_t_star: from (t* of the noise level, B, statistics of its heads, generator) to B timesteps, integers; by
            default t* for all. The generator is the pool's.
        head_optimizer: in place of AdamW, see `nitro_lab.discriminators.optimizers`.
        backbone: makes the feature extractor from the teacher's pipeline, see `nitro_lab.backbones`; by default
            `FrozenUNetEncoder` of the teacher.
    """

    head: HeadFactory | None = None
    views: Mapping[str, View] | None = None
    gan_loss: GANLoss | None = None
    sample_heads: SamplePolicy | None = None
    select_refreshed: RefreshPolicy | None = None
    regularizer: GANTerm | None = None
    student_loss: GANTerm | None = None
    negatives: Negatives | None = None
    sample_t_star: TStarLaw | None = None
    head_optimizer: HeadOptimizer | None = None
    backbone: BackboneFactory | None = None

    def __post_init__(self) -> None:
        """Refuse parts of the wrong type before anything is loaded."""
        for name, part in vars(self).items():
            if name not in ("views", "gan_loss") and part is not None and not callable(part):
                raise ValueError(f"{name} is {part!r}; give a class or a function.")
        if self.views is not None and not (isinstance(self.views, Mapping) and self.views):
            raise ValueError(f"views is {self.views!r}; give a dictionary of one or more views, by name.")
        if self.gan_loss is not None and not isinstance(self.gan_loss, GANLoss):
            raise ValueError(f"gan_loss is {self.gan_loss!r}; give a GANLoss(discriminator, generator).")

    def make_backbone(self, teacher: Pipeline) -> Backbone:
        """The frozen feature extractor."""
        before = _num_parameters(teacher)
        backbone = self.backbone(teacher) if self.backbone else FrozenUNetEncoder(teacher.unet)
        if not isinstance(backbone, Backbone):
            raise ValueError(f"backbone returned {backbone!r}; it must be an instance of nitro_lab.backbones.Backbone.")
        backbone.freeze()  # once more does not harm
        if _num_parameters(teacher) < before:
            raise ValueError(f"backbone {type(backbone).__name__} has modules of the teacher itself; deepcopy them.")
        return backbone

    def make_head(self, config: DistillConfig) -> HeadFactory:
        """The function that makes a head."""
        return self.head or partial(ConvHead, width=config.head_width, depth=config.head_depth)

    def make_views(self, config: DistillConfig) -> dict[str, View]:
        """The views by name, in the pool's order."""
        if self.views is not None:
            return dict(self.views)
        return {name: make_view(name, config.crop_size, config.crops_per_image) for name in config.views}

    def make_loss(self, config: DistillConfig) -> GANLoss:
        """The losses of both sides."""
        return self.gan_loss or GAN_LOSSES[config.gan_loss]

    def make_optimizer(self, config: DistillConfig) -> HeadOptimizer:
        """The optimizer of the heads."""
        return self.head_optimizer or partial(adamw, betas=config.disc_adam_betas)

    def make_selection(self) -> tuple[SamplePolicy, RefreshPolicy]:
        """Which heads are sampled, and which are re-initialized."""
        return self.sample_heads or sample_uniform, self.select_refreshed or refresh_uniform

    def code_hashes(self) -> dict[str, str]:
        """A hash of what each replaced part does, by name: with the same hashes, two runs have the same parts."""
        return {name: code_hash(part) for name, part in vars(self).items() if part is not None}


def _num_parameters(pipe: Pipeline) -> int:
    """Number of parameter tensors of all parts; those of a frozen backbone do not count."""
    return sum(len(list(x.parameters())) for x in pipe.components.values() if isinstance(x, nn.Module))


Variant = HeadFactory | Parts | Mapping[str, Any]


def apply_variant(config: DistillConfig, variant: Variant) -> tuple[DistillConfig, Parts]:
    """Settings and parts of a variant: a head, `Parts`, or a dictionary of settings and names of parts.

    Views and losses can be given as names, which are settings, or as parts. Raises a ValueError or TypeError if a name
    is unknown or a value not allowed.
    """
    if isinstance(variant, Parts):
        return config, variant
    if not isinstance(variant, Mapping):
        return config, Parts(head=variant)
    values: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in variant.items()}
    known = [field.name for field in (*fields(DistillConfig), *fields(Parts))]
    for key in values.keys() - known:
        near = ", ".join(get_close_matches(key, known)) or "see help(DistillConfig)"
        raise ValueError(f"There is no setting {key!r}; did you mean {near}?")
    names = [field.name for field in fields(Parts) if not isinstance(values.get(field.name), (str, tuple))]
    parts = {name: values.pop(name, None) for name in names}
    return replace(config, **values), Parts(**parts)
