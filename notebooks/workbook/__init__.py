"""What the notebooks alone need: their measurements, figures and exercises. `nitro_lab` does not import it."""
