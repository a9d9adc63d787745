"""The miniature: a captioned world of 64×64 images, a scene classifier, and a small SDXL trained on that world."""

from pathlib import Path

__all__ = ["MODEL_FOLDER"]

MODEL_FOLDER = Path(__file__).parent / "model"  # the shipped weights, in diffusers' layout
