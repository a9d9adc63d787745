"""How the miniature is trained: one dataclass, five recipes."""

from dataclasses import asdict, dataclass

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Settings of all stages; the first word of a setting is its stage. Learning rates are AdamW's peak rates."""

    name: str
    from_installed: bool = False  # start from the weights of the installed miniature
    seed: int = 2412
    checkpointing_steps: int = 250

    vae_steps: int = 10_000
    vae_batch_size: int = 16
    vae_learning_rate: float = 2e-3
    vae_kl_weight: float = 2e-4  # of the KL divergence per latent, relative to the mean squared error per pixel

    classifier_steps: int = 5_800
    classifier_batch_size: int = 48
    classifier_learning_rate: float = 2e-3

    teacher_steps: int = 12_800
    teacher_batch_size: int = 32
    teacher_learning_rate: float = 1e-3
    teacher_ema_decay: float = 0.998

    cache_pairs: int = 3_072  # of noise and teacher sample, which the regressed student is trained on
    cache_batch_size: int = 64
    cache_num_inference_steps: int = 12
    cache_guidance_scale: float = 3.0
    cache_strength: float = 0.55  # of image-to-image; see `tools.miniature.teacher_cache`

    regressed_steps: int = 2_400
    regressed_batch_size: int = 32
    regressed_learning_rate: float = 5e-4
    regressed_shift: int = 250
    regressed_max_steps: int = 4  # of the longest schedule that the student learns; half of its batches train one step

    eval_images: int = 512
    eval_num_inference_steps: int = 25  # of the teacher

    def settings(self, stage: str) -> dict[str, int | float]:
        """Return the settings that the result of one stage depends on."""
        return {key: value for key, value in asdict(self).items() if key == "seed" or key.startswith(stage + "_")}


_RECIPES = (
    Recipe("cpu"),  # as many steps as the shipped weights took in seven runs, the last two of cpu-student
    Recipe("cpu-more", from_installed=True, seed=2416, vae_steps=800, classifier_steps=400, teacher_steps=1_300),
    Recipe(  # the regressed student alone
        "cpu-student", True, seed=2418, vae_steps=0, classifier_steps=0, teacher_steps=0, regressed_steps=900
    ),
    Recipe(
        "cuda",
        vae_steps=40_000,
        vae_batch_size=64,
        classifier_steps=8_000,
        classifier_batch_size=256,
        teacher_steps=100_000,
        teacher_batch_size=256,
        cache_pairs=65_536,
        cache_batch_size=1024,
        cache_num_inference_steps=25,
        regressed_steps=10_000,
        regressed_batch_size=128,
    ),
    Recipe(
        "smoke",
        checkpointing_steps=5,
        vae_steps=20,
        classifier_steps=20,
        classifier_batch_size=16,
        teacher_steps=20,
        teacher_batch_size=8,
        cache_pairs=32,
        cache_batch_size=16,
        cache_num_inference_steps=4,
        regressed_steps=20,
        regressed_batch_size=8,
        eval_images=16,
        eval_num_inference_steps=4,
    ),
)
RECIPES = {recipe.name: recipe for recipe in _RECIPES}
