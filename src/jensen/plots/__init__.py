"""Figures of fits: what a picture says better than a table. Every function returns a matplotlib figure or animation."""

from jensen.plots.blob import blob
from jensen.plots.elbo import elbo
from jensen.plots.look import STYLE
from jensen.plots.marginals import marginals
from jensen.plots.particles import particles
from jensen.plots.path import path

__all__ = ["STYLE", "blob", "elbo", "marginals", "particles", "path"]
