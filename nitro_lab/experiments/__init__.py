"""Comparisons of training variants over several random seeds: runs, paired differences, 95 % intervals."""
