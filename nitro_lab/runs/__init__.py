"""A training that is kept: its folder, and what is recorded while it goes."""
