"""Which inputs an output depends on, by the structure of the program."""

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate.dependence import dependence

VALUES = {"a": np.ones(3), "b": np.ones(3), "z": np.zeros(3, int)}


def test_outputs_have_their_own_inputs():
    def function(v, data):
        return {"sum": v["a"] + v["b"], "one": jnp.exp(v["b"]), "data": data["x"] * 2, "constant": jnp.ones(2)}

    found = dependence(function, VALUES, {"x": np.ones(3)})
    assert found == {"sum": {"a", "b"}, "one": {"b"}, "data": frozenset(), "constant": frozenset()}


def test_gathers_depend_on_array_and_index():
    assert dependence(lambda v: v["a"][v["z"]], VALUES) == {"a", "z"}


def test_zero_times_counts():
    assert dependence(lambda v: 0.0 * v["a"] + v["b"], VALUES) == {"a", "b"}


def test_calls_are_walked_through():
    @jax.jit
    def two(a, b):
        return a * 2, b * 3

    found = dependence(lambda v: two(v["a"], v["b"]), VALUES)
    assert found == ({"a"}, {"b"})


def test_branches_spread_everything():
    found = dependence(lambda v: jax.lax.cond(v["z"][0] > 0, lambda a: a, lambda a: 2 * a, v["a"]), VALUES)
    assert {"a", "z"} <= found


def test_two_chains_in_one_scan_stay_apart():
    def step(carry, xs):
        a, b, c = carry
        return (a + xs[0], b * xs[1], a), (a, b, c)

    found = dependence(lambda v: jax.lax.scan(step, (0.0, 1.0, 0.0), (v["a"], v["b"]))[1], VALUES)
    assert found == ({"a"}, {"b"}, {"a"})


def test_carry_passes_on_after_several_rounds():
    def step(carry, x):
        a, b, c, d = carry
        return (x, a, b, c), d

    assert dependence(lambda v: jax.lax.scan(step, (0.0,) * 4, v["a"])[1], VALUES) == {"a"}


def test_found_sets_are_not_too_small():
    """Every input with a non-zero derivative is found."""

    def function(v):
        walk = jax.lax.scan(lambda c, x: (c + x, c), 0.0, v["a"])[1]
        return {"walk": walk * v["b"][0], "sort": jnp.sort(v["a"]), "norm": jnp.linalg.norm(v["b"])}

    real = {"a": np.arange(3.0), "b": 1.0 + np.arange(3.0)}
    jacobian = jax.jacobian(function)(real)
    found = dependence(function, real)
    for leaf, parts in jacobian.items():
        assert {name for name, part in parts.items() if np.abs(part).max() > 0} <= found[leaf]
