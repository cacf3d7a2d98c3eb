"""Conjugacy: from the graph of a model to complete conditionals, found and proved numerically."""
