"""Fused passes over many rows for the few models in which they pay: no matrix of rows x components is ever stored."""
