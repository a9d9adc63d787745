"""What is written beside shipped weights: how they were made, what was measured on them, pictures and curves."""
