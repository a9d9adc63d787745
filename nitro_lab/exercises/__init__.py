"""Checks of the notebooks' exercises, a module a notebook."""
