"""What the notebooks measure: each function takes models or runs and gives numbers; none of them draws."""
