"""Side-by-side benchmarks: ratios measured in one run, never a lone time. ``python -m benchmarks`` runs them all."""
