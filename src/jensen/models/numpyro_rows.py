"""Plates of a NumPyro model at the length of the data they are given, and its observations simulated anew.

A plate whose length is written in the model (``plate("N", 50_000)``) is brought to the number of rows that are there, and a
plate with ``subsample_size`` is opened: rows are chosen outside of the model, by slicing its data and weighting the rows.
``numpyro.subsample`` statements then have nothing left to take.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger


class Resized(Messenger):
    """Effect handler: plates have all their rows, or as many as `lengths` says (old length -> new length).

    Attributes
    ----------
    batch_size
        The ``subsample_size`` of a plate, once the model has run; of several, by their names.
    """

    def __init__(self, fn: Callable[..., Any], lengths: Mapping[int, int]):
        super().__init__(fn)
        self._wanted: dict[str, int] = {}
        self._lengths = dict(lengths)
        self._scales: dict[str, float] = {}

    @property
    def batch_size(self) -> int | dict[str, int] | None:  # noqa: D102
        sizes = tuple(self._wanted.values())
        return dict(self._wanted) if len(sizes) > 1 else sizes[0] if sizes else None

    def for_rows(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> "Resized":
        """The same model for arrays whose first axes have other lengths, as far as its plates have those lengths."""
        pairs = [(before[name].shape, np.shape(array)) for name, array in after.items() if name in before]
        changed = {old[0]: new[0] for old, new in pairs if old and new and old != new}
        lengths = {old: changed.get(new, new) for old, new in self._lengths.items()}
        assert self.fn is not None
        return Resized(self.fn, {**changed, **lengths})

    def process_message(self, msg: dict[str, Any]) -> None:
        """Choose the rows of a plate; take back the scale the plate adds for it."""
        if msg["type"] == "plate":
            size, wanted = msg["args"]
            if wanted is not None and wanted < size:
                self._wanted[msg["name"]] = wanted
            rows = self._lengths.get(size, size)
            msg["args"], msg["value"] = (size, rows), jnp.arange(rows)
            self._scales[msg["name"]] = size / rows
        elif msg["type"] == "subsample":
            msg["type"] = "slice"  # a plate would compare the data with its old length
        elif msg["type"] == "sample" and msg["scale"] is not None:
            for frame in msg["cond_indep_stack"]:
                msg["scale"] = msg["scale"] / self._scales.get(frame.name, 1.0)
            if msg["scale"] == 1.0:
                msg["scale"] = None


class Unobserved(Messenger):
    """Effect handler: observed sites are simulated instead, as many as were observed.

    A distribution with fewer axes than its observations (``sample("y", Normal(mu, 1), obs=y)`` outside of a plate) stands for
    independent ones.
    """

    def __init__(self, fn: Callable[..., Any], names: Collection[str]):
        super().__init__(fn)
        self._names = frozenset(names)

    def process_message(self, msg: dict[str, Any]) -> None:
        """Forget the observed values, but not their number."""
        if msg["type"] != "sample" or msg["name"] not in self._names:
            return
        fn, shape = msg["fn"], jnp.shape(msg["value"])
        rows = shape[: len(shape) - fn.event_dim]
        if msg["value"] is not None and len(rows) > len(fn.batch_shape):
            msg["fn"] = fn.expand(np.broadcast_shapes(rows, fn.batch_shape))
        msg["is_observed"], msg["value"] = False, None
