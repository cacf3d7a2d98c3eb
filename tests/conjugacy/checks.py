"""What the tests of conjugacy share: plans without ceremony, one random q, and E_q[log p] by Monte Carlo."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tests.conjugacy.zoo import example

from jensen.conjugate import blocks
from jensen.conjugate.certificate import Certificate, certify
from jensen.conjugate.plan import Plan, make_plan
from jensen.conjugate.probe import FAST_COMPILE
from jensen.core.precision import scope
from jensen.engines.coordinate import elbo, moments_of, one_sweep, order
from jensen.families.gaussian import Gaussian
from jensen.models.cache import remember
from jensen.models.numpyro_graph import graph


def make(model: Callable[..., Any], data: Mapping[str, Any], groups: Any = None, /, **static: Any) -> Plan:
    """The plan of a NumPyro model, in float64; as in a fit, data of the same shapes meet the same graph and its programs."""
    shapes = tuple((name, np.shape(value), np.asarray(value).dtype) for name, value in data.items())
    with scope("float64"):
        found = remember(model, (shapes, tuple(static.items())), lambda: graph(model, data, static))
        return make_plan(found, data, groups)


@cache
def plan(name: str, joint: bool = False) -> Plan:
    """The plan of a model of the zoo; made once. Every site is a block of its own unless `joint`."""
    entry = example(name)
    return make(entry.model, entry.data, None if joint else (), **entry.static)


@cache
def zoo_certificate(name: str) -> Certificate:
    """The certificate of a model of the zoo, with the default blocks."""
    with scope("float64"):
        return certify(plan(name, joint=True), example(name).data)


def passes(found: Plan, data: Mapping[str, Any]) -> bool:
    """Whether a plan has an energy that the certificate believes."""
    if found.energy is None:
        return False
    with scope("float64"):
        certificate = certify(found, data)
    return not certificate.failed and not certificate.bent


def _compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    return jax.jit(function).lower(*arguments).compile(compiler_options=FAST_COMPILE)


def _sweep(energy: Any, families: Any, names: tuple[str, ...], damped: frozenset[str]) -> tuple[Any, Any]:
    new = one_sweep(energy, families, moments_of(families), names, damped)
    return new[0], elbo(energy, *new)


_STEPS: dict[Any, Any] = {}
"""Compiled sweeps by plan and order of blocks."""


def sweeps(found: Plan, families: Any, count: int, names: tuple[str, ...] = ()) -> tuple[Any, np.ndarray]:
    """Families and ELBO after every sweep."""
    damped, names, elbos = frozenset(found.damped), names or order(found), []
    with scope("float64"):
        if (found, names) not in _STEPS:
            _STEPS[found, names] = _compiled(lambda energy, q: _sweep(energy, q, names, damped), found.energy, families)
        step = _STEPS[found, names]
        for _ in range(count):
            families, elbo = step(found.energy, families)
            elbos.append(float(elbo))
    return families, np.array(elbos)


def start(found: Plan, seed: int = 0) -> Any:
    """Families to begin with."""
    with scope("float64"):
        return blocks.start(found, np.random.default_rng(seed))


def all_moments(families: Any) -> Any:
    """Block -> moments, by one program."""
    with scope("float64"):
        return jax.device_get(_compiled(moments_of, families)(families))


def expectation(found: Plan, families: Any) -> float:
    """The energy at the moments of q."""
    with scope("float64"):
        moments = all_moments(families)
        return float(_compiled(lambda energy, moments: energy(moments), found.energy, moments)(found.energy, moments))


def monte_carlo(found: Plan, data: Mapping[str, Any], families: Any, draws: int = 4000) -> tuple[float, float]:
    """E_q[log p] by the densities of the model's own distributions, and the standard error of it."""
    with scope("float64"):

        def total(families: Any, data: Any, noise: Any) -> Any:
            values = {}
            for block, family in families.items():
                values |= blocks.unflat(found, block, family.at(noise[block]))
            one = lambda some: sum(jnp.sum(rows) for rows in found.graph.densities(some, data).values())  # noqa: E731
            return jax.lax.map(one, values, batch_size=1000)

        rng = np.random.default_rng(0)
        args = families, dict(data), {block: family.noise(rng, draws) for block, family in families.items()}
        drawn = np.asarray(_compiled(total, *args)(*args))
    return float(drawn.mean()), float(drawn.std() / np.sqrt(draws))


def random_start(found: Plan, seed: int = 0) -> Any:
    """A start whose Gaussians have means away from zero and correlations, so that no error hides behind a zero."""
    rng = np.random.default_rng(seed)

    def shaken(family: Any) -> Any:
        if not isinstance(family, Gaussian):
            return family
        n = family.pattern.n
        point = Gaussian.point(family.pattern, rng.uniform(0.3, 1.0, n), rng.uniform(0.05, 0.2, n))
        n = family.pattern.diagonal
        off = rng.uniform(-1.0, 1.0, family.pattern.size - n) * 5.0 / max(n, 2)  # rows' sums stay below the diagonal
        return replace(point, precision=np.concatenate([point.precision[:n], off]))

    families = start(found, seed)
    with scope("float64"):
        return {block: shaken(family) for block, family in families.items()}
