"""Figures of one notebook each: data in, Figure out. What several of them use is in `nitro_lab.plots`."""
