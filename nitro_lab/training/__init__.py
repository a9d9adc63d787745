"""Adversarial distillation: settings, the teacher's samples, the training step, and a run in a folder."""
