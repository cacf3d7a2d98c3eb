"""Guards of the correction on synthetic stages of chains."""

import numpy as np
import pytest

import jensen as jn
from jensen.diagnostics.chains import CHAINS, KEPT, Stage
from jensen.diagnostics.correct import _least_force


def stage(dim: int, force: float) -> Stage:
    """Independent standard normal draws whose gradients are `force` times those of a standard normal."""
    z = np.random.default_rng(0).standard_normal((KEPT, CHAINS, dim))
    return Stage(z, np.zeros((KEPT, CHAINS)), -force * z, 0.8, 0.5)


@pytest.mark.parametrize("dim", [1, 5, 100, 204, 300, 1000])
def test_draws_of_the_target_are_never_called_collapsed(dim):
    """Also where there are few more draws than dimensions, and sample eigenvalues are small by themselves."""
    assert _least_force(stage(dim, 1.0)) > 0.15


@pytest.mark.parametrize("dim", [1, 5, 100, 1000])
def test_a_cloud_without_force_is(dim):
    assert _least_force(stage(dim, 1e-3)) < 0.05


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
def test_the_chains_stay_with_the_posterior(without_flow):
    import jax.numpy as jnp

    model = jn.density(lambda p: -2 * jnp.log1p(p["x"] ** 2 / 3).sum(), {"x": np.zeros(2)})
    posterior = jn.fit(model)
    assert posterior.answer == "corrected"
    assert posterior.chains is not None
    assert posterior.chains.stages >= 2
    assert posterior.chains.force > 0.5
