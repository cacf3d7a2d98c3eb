"""Geometries of the blind set: densities that were built, so that their moments are known and exact draws are easy.

    python -m benchmarks.blind_geometries

compares the stated moments with those of exact draws, and the densities with the draws by Stein's identities.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import sample
from scipy import integrate, special

import jensen as jn


@dataclass(frozen=True, eq=False)
class Geometry:
    """A model with its exact moments.

    Attributes
    ----------
    name, model
        As in the blind set; the model takes no data.
    mean, sd
        Site -> array.
    draw
        (rng, n) -> site -> (n, ...): exact draws.
    """

    name: str
    model: Any
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    draw: Callable[[np.random.Generator, int], dict[str, np.ndarray]]


def _flat(name: str, dim: int, log_density: Callable, mean: Any, sd: Any, draw: Callable) -> Geometry:
    """One site x (D,) on the real line, as `jensen.density`."""
    model = jn.density(lambda params: log_density(params["x"]), {"x": np.zeros(dim)})
    moments = ({"x": np.broadcast_to(np.asarray(value, float), dim).copy()} for value in (mean, sd))
    return Geometry(name, model, *moments, lambda rng, n: {"x": draw(rng, n)})


def _rotation(seed: int, dim: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


def _skew() -> Geometry:
    """Independent skew normals, rotated: x = Q s."""
    shape, turn = np.array([0.0, 1.0, 3.0, 6.0, -4.0, 2.0]), _rotation(76001, 6)
    lean = shape / np.sqrt(1.0 + shape**2)
    mean, var = lean * np.sqrt(2.0 / np.pi), 1.0 - 2.0 * lean**2 / np.pi

    def log_density(x):
        s = turn.T @ x
        return (-0.5 * s**2 + jax.scipy.stats.norm.logcdf(shape * s)).sum()

    def draw(rng, n):
        s = lean * np.abs(rng.normal(size=(n, 6))) + np.sqrt(1.0 - lean**2) * rng.normal(size=(n, 6))
        return s @ turn.T

    return _flat("skew_rotated", 6, log_density, turn @ mean, np.sqrt(turn**2 @ var), draw)


def _banana_strong() -> Geometry:
    """a ~ N(0, 1), b | a ~ N(1.5 (a^2 - 1), 0.3^2)."""

    def model():
        a = sample("a", dist.Normal(0.0, 1.0))
        sample("b", dist.Normal(1.5 * (a**2 - 1.0), 0.3))

    def draw(rng, n):
        a = rng.normal(size=n)
        return {"a": a, "b": 1.5 * (a**2 - 1.0) + 0.3 * rng.normal(size=n)}

    sd = {"a": np.array(1.0), "b": np.sqrt(1.5**2 * 2.0 + 0.3**2)}
    return Geometry("banana_strong", model, {"a": np.array(0.0), "b": np.array(0.0)}, sd, draw)


def _banana_pairs() -> Geometry:
    """Ten mild bananas side by side, D = 20: odd coordinates are bent by the even ones."""
    bend, wide = 0.4, 1.5

    def log_density(x):
        a, b = x[0::2], x[1::2]
        return -0.5 * ((a / wide) ** 2 + (b - bend * (a**2 - wide**2)) ** 2).sum()

    def draw(rng, n):
        a = wide * rng.normal(size=(n, 10))
        return np.stack([a, bend * (a**2 - wide**2) + rng.normal(size=(n, 10))], axis=2).reshape(n, 20)

    sd = np.tile([wide, np.sqrt(1.0 + 2.0 * bend**2 * wide**4)], 10)
    return _flat("banana_pairs", 20, log_density, 0.0, sd, draw)


def _t4() -> Geometry:
    scale = np.array([0.1, 1.0, 3.0, 10.0])

    def model():
        sample("x", dist.StudentT(4.0, 1.0, jnp.array(scale)).to_event(1))

    def draw(rng, n):
        return {"x": 1.0 + scale * rng.standard_t(4.0, size=(n, 4))}

    return Geometry("t4_product", model, {"x": np.ones(4)}, {"x": scale * np.sqrt(2.0)}, draw)


def _t7() -> Geometry:
    """One multivariate t with 7 degrees of freedom, D = 12."""
    factor = _rotation(76002, 12) * np.linspace(0.5, 3.0, 12)

    def model():
        sample("x", dist.MultivariateStudentT(7.0, jnp.zeros(12), scale_tril=np.linalg.cholesky(factor @ factor.T)))

    def draw(rng, n):
        return {"x": rng.normal(size=(n, 12)) @ factor.T / np.sqrt(rng.chisquare(7.0, size=(n, 1)) / 7.0)}

    sd = np.sqrt(np.diag(factor @ factor.T) * 7.0 / 5.0)
    return Geometry("t7_joint", model, {"x": np.zeros(12)}, {"x": sd}, draw)


def _modes(name: str, dim: int, weight: float, apart: float, seed: int) -> Geometry:
    """Two Gaussians: N(0, I), and with `weight` one of sds 0.7 ... 1.3 whose mean is `apart` away."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=dim)
    center, sd = apart * direction / np.linalg.norm(direction), np.linspace(0.7, 1.3, dim) if dim > 1 else np.ones(1)

    def log_density(x):
        second = -0.5 * (((x - center) / sd) ** 2).sum() - np.log(sd).sum()
        return jnp.logaddexp(np.log1p(-weight) - 0.5 * (x**2).sum(), np.log(weight) + second)

    def draw(rng, n):
        chosen = rng.uniform(size=(n, 1)) < weight
        z = rng.normal(size=(n, dim))
        return np.where(chosen, center + sd * z, z)

    mean = weight * center
    second_moment = (1.0 - weight) + weight * (center**2 + sd**2)
    return _flat(name, dim, log_density, mean, np.sqrt(second_moment - mean**2), draw)


def _ring() -> Geometry:
    """Radius N(5, 0.4^2) with any angle, in the plane."""

    def model():
        x = sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
        radius = jnp.sqrt((x**2).sum() + 1e-12)
        numpyro.factor("ring", -0.5 * ((radius - 5.0) / 0.4) ** 2)

    def draw(rng, n):
        # density of the radius: r exp(-(r - 5)^2 / (2 0.4^2)); r / 10 accepts a normal
        radius = 5.0 + 0.4 * rng.normal(size=4 * n)
        radius = radius[rng.uniform(size=4 * n) < radius / 10.0][:n]
        angle = rng.uniform(0.0, 2.0 * np.pi, size=n)
        return {"x": radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)}

    def moment(power):
        return integrate.quad(lambda r: r**power * np.exp(-0.5 * ((r - 5.0) / 0.4) ** 2), 0.0, 10.0, points=[5.0])[0]

    return Geometry("ring", model, {"x": np.zeros(2)}, {"x": np.full(2, np.sqrt(moment(3) / moment(1) / 2.0))}, draw)


def _funnel(name: str, dim: int, scale: float) -> Geometry:
    """v ~ N(0, scale^2), x_i | v ~ N(0, e^v)."""

    def model():
        v = sample("v", dist.Normal(0.0, scale))
        sample("x", dist.Normal(0.0, jnp.exp(0.5 * v)).expand([dim - 1]).to_event(1))

    def draw(rng, n):
        v = scale * rng.normal(size=n)
        return {"v": v, "x": np.exp(0.5 * v)[:, None] * rng.normal(size=(n, dim - 1))}

    sd = {"v": np.array(scale), "x": np.full(dim - 1, np.exp(0.25 * scale**2))}
    return Geometry(name, model, {"v": np.array(0.0), "x": np.zeros(dim - 1)}, sd, draw)


def _gaussian_100() -> Geometry:
    """D = 100, eigenvalues of the covariance from 1e-2 to 1e2, any directions."""
    turn, values, mean = _rotation(76003, 100), np.geomspace(1e-2, 1e2, 100), np.linspace(-3.0, 3.0, 100)
    cov = (turn * values) @ turn.T

    def model():
        sample("x", dist.MultivariateNormal(jnp.array(mean), covariance_matrix=jnp.array(cov)))

    def draw(rng, n):
        return {"x": mean + (rng.normal(size=(n, 100)) * np.sqrt(values)) @ turn.T}

    return Geometry("gaussian_100", model, {"x": mean}, {"x": np.sqrt(np.diag(cov))}, draw)


def _copula() -> Geometry:
    """A Gaussian copula (equal correlations 0.6) with gamma margins, on positive numbers, D = 6."""
    shape, rate, rho = np.array([1.2, 2.0, 3.0, 5.0, 8.0, 20.0]), np.array([0.5, 1.0, 1.0, 2.0, 4.0, 10.0]), 0.6
    corr = np.full((6, 6), rho) + (1.0 - rho) * np.eye(6)
    extra = np.linalg.inv(corr) - np.eye(6)

    def log_density(params):
        x = params["x"]
        lower = jax.scipy.special.gammainc(shape, rate * x)
        upper = jax.scipy.special.gammaincc(shape, rate * x)
        # the smaller of the two tails keeps its digits; the other is replaced, for its derivative may be infinite
        left = lower < 0.5
        tail = jnp.maximum(jnp.where(left, lower, upper), 1e-300)
        u = jnp.where(left, 1.0, -1.0) * jax.scipy.special.ndtri(tail)
        return -0.5 * u @ extra @ u + ((shape - 1.0) * jnp.log(x) - rate * x).sum()

    def draw(rng, n):
        u = rng.normal(size=(n, 6)) @ np.linalg.cholesky(corr).T
        return {"x": special.gammaincinv(shape, special.ndtr(u)) / rate}

    model = jn.density(log_density, {"x": np.ones(6)}, support={"x": "positive"})
    return Geometry("copula", model, {"x": shape / rate}, {"x": np.sqrt(shape) / rate}, draw)


def geometries() -> Iterator[Geometry]:
    """Each with its moments and exact draws."""
    yield _skew()
    yield _banana_strong()
    yield _banana_pairs()
    yield _t4()
    yield _t7()
    yield _modes("modes_1", 1, 0.3, 3.0, 76011)
    yield _modes("modes_2", 2, 0.2, 5.0, 76012)
    yield _modes("modes_5", 5, 0.05, 6.0, 76013)
    yield _modes("modes_15", 15, 0.5, 9.0, 76014)
    yield _ring()
    yield _funnel("funnel_mild", 6, 1.0)
    yield _funnel("funnel_deep", 10, 3.0)
    yield _gaussian_100()
    yield _copula()


def witness(n: int = 20_000) -> None:
    """Draws against moments, E[g] = 0 and E[z g] = -1 of the unconstrained density, all in standard errors."""
    from jensen.core.precision import scope
    from jensen.models.read import read
    from jensen.models.target import Target

    for geometry in geometries():
        x = geometry.draw(np.random.default_rng(76021), n)
        seen = []
        for site, mean in geometry.mean.items():
            square = (x[site] - mean) ** 2
            seen += [(x[site], mean), (square, geometry.sd[site] ** 2)]
        with scope():
            target = Target(read(geometry.model))
            flat = np.concatenate([x[site.name].reshape(n, -1) for site in target.model.sites], axis=1)
            z = np.log(flat) if geometry.name == "copula" else flat
            g = np.concatenate([target(part)[1] for part in np.array_split(z, -(-n // target.batch))])
        seen += [(g, 0.0), (z * g, -1.0)]
        errors = [np.max(np.abs(a.mean(axis=0) - b) / (a.std(axis=0) / np.sqrt(n))) for a, b in seen]
        print(f"{geometry.name:14s} D = {z.shape[1]:3d}", np.round(errors, 1), flush=True)


if __name__ == "__main__":
    witness()
