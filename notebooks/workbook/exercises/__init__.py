"""Exercises of the notebooks: `checker` compares an answer with the expected one; each notebook has its own file."""
