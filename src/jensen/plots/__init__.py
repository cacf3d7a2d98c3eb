"""Figures of fits: what a picture says better than a table. Every function returns a matplotlib figure or animation."""
