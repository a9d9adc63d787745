"""How the miniature is trained: one dataclass, five recipes."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Recipe:
    """Sizes of every stage; the first word of a setting is its stage. Rates are AdamW's peak learning rates."""

    name: str
    goes_on: bool = False  # start from the weights of the installed miniature, not from nothing
    seed: int = 2412
    save_every: int = 250  # steps between snapshots

    vae_steps: int = 10_000
    vae_batch: int = 16
    vae_rate: float = 2e-3
    vae_kl_weight: float = 2e-4  # a latent's divergence, against the mean squared error of a pixel

    judge_steps: int = 5_800
    judge_batch: int = 48
    judge_rate: float = 2e-3

    teacher_steps: int = 12_800
    teacher_batch: int = 32
    teacher_rate: float = 1e-3
    teacher_ema: float = 0.998

    cache_pairs: int = 3_072  # the teacher's samples, with their noise, that the soft student is regressed on
    cache_batch: int = 64
    cache_steps: int = 12
    cache_guidance: float = 3.0
    cache_redrawn: float = 0.55  # image-to-image strength; see `nitro_lab.mini.teacher_cache`

    regressed_steps: int = 2_400
    regressed_batch: int = 32
    regressed_rate: float = 5e-4
    regressed_shift: int = 250
    regressed_schedule: int = 4  # steps of the longest schedule that it learns; half of its batches train one

    exam_images: int = 1_000
    exam_steps: int = 25  # of the teacher
    gap_images: int = 500  # of each kind, that the small network has not seen; it learns from the cache's
    gap_steps: int = 1_000

    def settings(self, stage: str) -> dict[str, int | float]:
        """What decides the outcome of one stage."""
        return {key: value for key, value in asdict(self).items() if key == "seed" or key.startswith(stage + "_")}


RECIPES = {
    "cpu": Recipe("cpu"),  # as many steps as the shipped weights took in seven legs, the last two of cpu-student
    "cpu-more": Recipe(
        "cpu-more",
        goes_on=True,
        seed=2416,
        vae_steps=800,
        judge_steps=400,
        teacher_steps=1_300,
    ),
    "cpu-student": Recipe(
        "cpu-student",  # the soft student alone
        goes_on=True,
        seed=2418,
        vae_steps=0,
        judge_steps=0,
        teacher_steps=0,
        regressed_steps=900,
    ),
    "cuda": Recipe(
        "cuda",
        vae_steps=40_000,
        vae_batch=64,
        judge_steps=8_000,
        judge_batch=256,
        teacher_steps=100_000,
        teacher_batch=256,
        cache_pairs=65_536,
        cache_batch=1024,
        cache_steps=25,
        regressed_steps=10_000,
        regressed_batch=128,
    ),
    "smoke": Recipe(
        "smoke",
        save_every=5,
        vae_steps=20,
        judge_steps=20,
        judge_batch=16,
        teacher_steps=20,
        teacher_batch=8,
        cache_pairs=32,
        cache_batch=16,
        cache_steps=4,
        regressed_steps=20,
        regressed_batch=8,
        exam_images=16,
        exam_steps=4,
        gap_images=16,
        gap_steps=5,
    ),
}
