"""What other people's critics cost: each example head against the paper's, in the same panel on the same features."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from nitro_lab.bench.critics import describe, panel_update, steps
from nitro_lab.bench.ratio import Comparison
from nitro_lab.compare.planning import Change, apply
from nitro_lab.distill_config import DistillConfig
from nitro_lab.example_heads import EXAMPLES
from nitro_lab.ideas import AS_CONFIGURED, Ideas
from nitro_lab.studies.head_report import Sights, panel_pool, see
from nitro_lab.studio import Training, prepare


def head_cost(training: Training, name: str, heads: Mapping[str, Change] = EXAMPLES) -> Comparison:
    """(e) One example. One that brings settings of its own is no other panel but another step, and timed as a whole."""
    config, ideas = apply(name, heads[name], training.config)
    return panel_of(training, name, ideas) if config == training.config else step_of(training, name, config, ideas)


def panel_of(training: Training, name: str, ideas: Ideas) -> Comparison:
    """A panel of this head, scored and updated. The paper's head over itself shows how much of a ratio is chance."""
    sights = see(training, noise_level=0)
    own, papers = (with_panel_pool(training, chosen, sights) for chosen in (ideas, AS_CONFIGURED))
    return Comparison(
        f"head: {name}",
        f"score and update, {describe(own)}: {name}",
        "the same with the paper's head",
        None,
        partial(panel_update, own, sights.real, sights.fake),
        partial(panel_update, papers, sights.real, sights.fake),
    )


def with_panel_pool(training: Training, ideas: Ideas, sights: Sights) -> Training:
    """The same training with a pool of these heads, of one noise level and no larger than a panel."""
    config = replace(training.config, t_star=training.config.t_star[:1])
    return replace(training, config=config, pool=panel_pool(training, ideas.head_of(config), sights))


def step_of(training: Training, name: str, config: DistillConfig, ideas: Ideas) -> Comparison:
    """A step with other settings over the default's."""
    other = prepare(config, training.snapshot.path.parent, ideas)
    return Comparison(
        f"head: {name}",
        f"full step, {describe(other)}: {name}",
        f"the default's full step, {describe(training)}",
        None,
        steps(other),
        steps(training),
    )
