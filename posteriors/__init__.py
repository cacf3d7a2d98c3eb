"""Fifteen real posteriors with reference moments and quantiles: oracles for tests and benchmarks.

>>> from posteriors.load import load, names
>>> model, data, reference = load("garch11")
"""
