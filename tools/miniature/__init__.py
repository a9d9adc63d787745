"""Trains the miniature that `nitro_lab.mini` ships, evaluates it, and writes its model cards."""
