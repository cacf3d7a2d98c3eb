"""Draws and fits on their way out: tables, ArviZ objects, files."""
