"""One look of the panel: fakes are made, shown to the critics beside reals, and both sides get their gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from nitro_lab.objectives import Objective
from nitro_lab.panel import Panel, Sight
from nitro_lab.sampling import Conditioning, predict_x0
from nitro_lab.stages import ONE_STEP, Turn
from nitro_lab.studio import Training

Logits = Sequence[torch.Tensor]  # a cell each: (heads, all logits of a head)


@dataclass(frozen=True)
class Judgement:
    """Means over the panel, margins (V, L, n), and the gradient of every leaf of the panel."""

    critic_loss: float
    student_loss: float
    margins: torch.Tensor
    gradients: list[torch.Tensor]


def judge(training: Training, panel: Panel, student_learns: bool, turn: Turn = ONE_STEP) -> Judgement:
    """Make fakes, show them and as many reals to the panel; leaves the student's gradient in its weights.

    The fakes' features and logits are computed once. The critics' loss is differentiated by the panel's weights alone,
    and the student's loss by the student's alone, so neither leaks into the other.
    """
    config, objective = training.config, training.ideas.objective_of(training.config)
    batch = draw_batch(training, several_steps=turn.k > 1)
    t_star = config.t_star[panel.noise_level]
    crops = int(torch.randint(2**62, (), generator=training.generator, device=training.generator.device))
    with training.accelerator.autocast():
        with torch.no_grad():
            real_maps = look(training, batch.reals, batch.real_told, batch.real_noise, t_star, crops)
        with torch.set_grad_enabled(student_learns):
            fakes = make_fakes(training, batch, turn)
            fake_maps = look(training, fakes, batch.fake_told, batch.fake_noise, t_star, crops)
    real, fake = panel.score(real_maps), panel.score(fake_maps)  # in float32: a margin is less than bf16's grain
    critic_loss = critics_loss(objective, real, fake)
    gradients = list(torch.autograd.grad(critic_loss, panel.leaves(), retain_graph=student_learns))
    student_loss = students_loss(objective, fake) if student_learns else torch.zeros(())
    if student_learns:
        training.accelerator.backward(student_loss / config.accumulation, inputs=list(training.student.parameters()))
    margins = margins_of(real, fake).view(panel.slots.shape).cpu()
    return Judgement(critic_loss.item() / panel.slots.numel(), student_loss.item(), margins, gradients)


def critics_loss(objective: Objective, real: Logits, fake: Logits) -> torch.Tensor:
    """The sum over heads, as the paper has it: each head then learns as if it were alone."""
    return torch.stack([objective.critic(r, f) * len(r) for r, f in zip(real, fake, strict=True)]).sum()


def students_loss(objective: Objective, fake: Logits) -> torch.Tensor:
    """The mean over heads."""
    return torch.stack([objective.student(f) for f in fake]).mean()


def margins_of(real: Logits, fake: Logits) -> torch.Tensor:
    """(cells, heads a cell), mean logit of reals minus that of fakes."""
    return torch.stack([(r.mean(1) - f.mean(1)).detach() for r, f in zip(real, fake, strict=True)])


@dataclass(frozen=True)
class Batch:
    """Reals and the start of fakes, with what the UNet is told of each, and the noise that hides each at t*.

    seeds: (B,), of the noise between the steps of each fake; none where one step is all.
    """

    reals: torch.Tensor
    real_told: Conditioning
    x_T: torch.Tensor  # noqa: N815 (the paper's symbol)
    fake_told: Conditioning
    real_noise: torch.Tensor
    fake_noise: torch.Tensor
    seeds: torch.Tensor | None = None

    def generators(self) -> list[torch.Generator] | None:
        """One for each fake, so that its noise is the same however a batch is split over processes."""
        if self.seeds is None:
            return None
        return [torch.Generator(self.x_T.device).manual_seed(seed) for seed in self.seeds.tolist()]


def draw_batch(training: Training, several_steps: bool = False) -> Batch:
    """This process' share of one part of a batch: reals out of the cache; fresh noise, with captions of its own."""
    config, samples, generator = training.config, training.samples, training.generator
    accelerator = training.accelerator
    size = config.batch_size // config.accumulation
    real, fake = (
        torch.randint(count, (size,), generator=generator, device=generator.device)
        for count in (len(samples.x0), len(samples.prompts))
    )
    kinds = 2 if config.shared_noise else 3
    x_T, *noise = torch.randn((kinds, size, *samples.x0.shape[1:]), generator=generator, device=generator.device)
    share = size // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    real, fake, told = real[mine], fake[mine], samples.conditioning
    seeds = torch.randint(2**62, (size,), generator=generator, device=generator.device)[mine] if several_steps else None
    hides_real, hides_fake = noise[0][mine], noise[-1][mine]
    return Batch(samples.x0[real], told[real], x_T[mine], told[fake], hides_real, hides_fake, seeds)


def make_fakes(training: Training, batch: Batch, turn: Turn) -> torch.Tensor:
    """The student's x0 (B, C, H, W) of pure noise, by the way that inference goes too."""
    flow = training.config.rollout_gradient
    return predict_x0(training.student, training.scheduler, batch.x_T, batch.fake_told, turn, batch.generators(), flow)


def look(
    training: Training, x0: torch.Tensor, told: Conditioning, noise: torch.Tensor, t_star: int, crops: int
) -> list[Sight]:
    """Noise x0 to t* and let the backbone see it in every view. Returns float32 maps: views, then judged levels."""
    alpha = training.scheduler.alphas_cumprod[t_star].to(x0)
    noisy = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
    generator = torch.Generator(x0.device).manual_seed(crops)
    empty = training.samples.empty[torch.zeros(len(x0), dtype=torch.long, device=x0.device)]
    views = training.ideas.views_of(training.config).values()
    seen = [view(noisy, told, empty, generator) for view in views]
    sights = []
    for latents, conditioning in seen:
        maps = training.backbone(latents, t_star, conditioning)
        sights.append(Sight([maps[level].float() for level in training.levels], conditioning.pooled.float()))
    return sights


def add_up(parts: list[Judgement], accelerator: Accelerator) -> Judgement:
    """Means over the parts of a batch and over processes."""
    gradients = [torch.stack(leaf).mean(0) for leaf in zip(*(part.gradients for part in parts), strict=True)]
    numbers = torch.stack(
        [torch.cat([torch.tensor([p.critic_loss, p.student_loss]), p.margins.flatten()]) for p in parts]
    ).mean(0)
    numbers = accelerator.reduce(numbers.to(accelerator.device), "mean").cpu()
    return Judgement(
        float(numbers[0]),
        float(numbers[1]),
        numbers[2:].view(parts[0].margins.shape),
        [accelerator.reduce(gradient, "mean") for gradient in gradients],
    )
