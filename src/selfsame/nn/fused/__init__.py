"""Residual networks with fewer passes over memory, for training on a GPU."""
