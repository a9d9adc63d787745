"""The miniature: a captioned world, a renderer, a judge, and a small SDXL that is trained on them."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"  # the shipped weights, in diffusers' layout
