"""Discriminators: views, heads, the pool that stores and trains the heads, selection policies, losses and checks."""
