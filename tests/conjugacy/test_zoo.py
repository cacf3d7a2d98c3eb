"""The zoo is what it says: sites, shapes that trace, proper densities."""

import jax
import numpy as np
import pytest
from numpyro import handlers
from tests.conjugacy.zoo import CONTROLS, MODELS, example


def _latents(record) -> dict[str, tuple[int, ...]]:
    def shapes(key):
        trace = handlers.trace(handlers.seed(record.model, key)).get_trace(**record.arguments)
        return {
            name: site["value"] for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]
        }

    sites = jax.eval_shape(shapes, jax.random.key(0))
    return {name: site.shape for name, site in sites.items()}


@pytest.mark.parametrize("record", MODELS, ids=lambda record: record.name)
def test_sites(record):
    latents = _latents(record)
    assert set(latents) == set(record.sites) == set(record.factors) == set(record.order)
    assert all(np.isfinite(value).all() for value in record.data.values())
    assert set(record.sites.values()) <= {"exact", "natural gradient", "free"}
    assert example(record.name) is record


@pytest.mark.parametrize("record", CONTROLS, ids=lambda record: record.name)
def test_controls(record):
    assert set(record.sites) <= set(_latents(record))
    assert set(record.sites.values()) - {"exact"}
