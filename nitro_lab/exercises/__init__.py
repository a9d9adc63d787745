"""Checks of the notebooks' exercises, a module a notebook."""

UNANSWERED = "No answer yet: put one in the place of None and run the cell again."
