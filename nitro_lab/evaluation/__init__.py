"""Evaluation of models of the miniature's world: metrics, the fixed evaluation set, and the table of models."""
