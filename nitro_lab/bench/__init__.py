"""What critics cost: ratios of two ways to do one thing within one run, and where the time of a step goes."""
