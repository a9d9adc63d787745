"""Figures: each function takes data and returns a Figure; none of them runs or trains a model."""
