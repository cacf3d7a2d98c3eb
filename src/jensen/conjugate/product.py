"""The approximation coordinate ascent arrives at: q(z) = prod_b q_b, each factor in its own exponential family.

Seen from outside it is an approximation like the Gaussian ones, on the flat unconstrained vector of the model's continuous sites;
the families themselves live in the model's own space, where their moments are exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from jensen.conjugate import blocks, charts
from jensen.conjugate.layout import GAUSSIAN
from jensen.conjugate.local import responsibilities
from jensen.conjugate.plan import Plan
from jensen.core import layout
from jensen.core.compilation import FAST_COMPILE, signature
from jensen.core.precision import scope
from jensen.families.discrete import Categorical
from jensen.families.exponential import Beta, Dirichlet, Gamma, InverseGamma
from jensen.families.gaussian import Gaussian
from jensen.models.model import Model

MOST_NUMBERS = 20_000_000
"""Draws of a discrete site are kept up to this many numbers; beyond, its probabilities are what there is."""


def wide(method: Any) -> Any:
    """A method that runs in float64, as coordinate ascent does, wherever it is called from."""

    @wraps(method)
    def within(*args: Any, **kwargs: Any) -> Any:
        with scope("float64"):
            return method(*args, **kwargs)

    return within


@dataclass(frozen=True, eq=False)
class Product:
    """A product of exponential families.

    Attributes
    ----------
    families
        Block -> family.
    plan, model
        Which sites the blocks hold; how the sites become the flat vector.
    """

    families: dict[str, Any]
    plan: Plan
    model: Model

    @property
    def params(self) -> dict[str, np.ndarray]:
        """Natural parameters, ``block.name`` -> array."""
        found = {}
        for block, family in self.families.items():
            for name in ("h", "precision") if hasattr(family, "precision") else vars(family):
                found[f"{block}.{name}"] = np.asarray(getattr(family, name))
        return found

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates of the continuous sites."""
        return self.model.dim

    @cached_property
    @wide
    def _moments(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        return jax.tree.map(np.asarray, self._compiled("moments", self._exact, self.families))

    def _exact(self, families: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        means, sds = {}, {}
        shapes = {name: node.shape for name, node in blocks.nodes(self.plan).items()}
        for block, names in self.plan.blocks.items():
            if block not in families:  # a large discrete site: its moments are its probabilities
                continue
            family, role = families[block], self.plan.layout.role[names[0]]  # type: ignore[union-attr]
            mean, sd = (family.moments()["mean"], family.sd()) if role in GAUSSIAN else (family.mean, family.sd)
            if role in GAUSSIAN:
                parts = {name: self._of_gaussian(family, mean, sd, name) for name in names}
            else:
                both = (blocks.unflat(self.plan, block, array) for array in (mean, sd))
                parts = {name: tuple(part[name] for part in both) for name in names}
            for number, found in enumerate((means, sds)):
                found.update({name: jnp.reshape(part[number], shapes[name]) for name, part in parts.items()})
        return means, sds

    def _of_gaussian(self, family: Any, mean: Any, sd: Any, name: str) -> tuple[Any, Any]:
        """Mean and sd of a site from those of its block."""
        layout: Any = self.plan.layout
        shape = blocks.own_shape(self.plan, blocks.nodes(self.plan)[name])
        index = layout.offset[name] + np.arange(int(np.prod(shape)))
        if name not in self.plan.charts:
            return layout.way(name).moments(mean[index], sd[index])
        index = index.reshape(-1, shape[-1])
        cov = family.moments()["cov"][layout.position(layout.block[name], index[..., None], index[:, None])]
        return charts.moments(self.plan.charts[name], mean[index], cov)

    def _compiled(self, word: str, function: Any, *args: Any) -> Any:
        """The function at these arguments, compiled for the handful of calls it gets."""

        def build() -> Any:
            return jax.jit(function).lower(*args).compile(compiler_options=FAST_COMPILE)

        return self.plan.graph.remember((word, tuple(self.plan.blocks.items()), signature(args)), build)(*args)

    @property
    def means(self) -> dict[str, np.ndarray]:
        """Exact means by site, in the model's own space (of the level, for discrete sites)."""
        return self._moments[0]

    @property
    def sds(self) -> dict[str, np.ndarray]:
        """Exact standard deviations, like `means`."""
        return self._moments[1]

    @wide
    def probs(self, site: str, rows: Any = None) -> np.ndarray:
        """Probabilities of the levels of a discrete site, (*shape, K), or of some of its rows (flat indices), (rows, K)."""
        if rows is not None or site not in self.families:
            return np.asarray(responsibilities(self.plan, self.families, site, rows))
        probs = self.families[site].moments()["probs"]
        return np.asarray(jnp.moveaxis(probs, -2, 0) if self.plan.layout.role[site] == "chain" else probs)  # type: ignore[union-attr]

    @wide
    def values(
        self, rng: np.random.Generator, n: int, discrete: bool = True, only: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Independent draws by site, in the model's own space, draws first; large discrete sites are left out.

        `only` are the blocks that are drawn; None: all.
        """
        known, found = blocks.nodes(self.plan), {}
        for block, names in self.plan.blocks.items():
            if only is not None and block not in only:
                continue
            node = known[names[0]]
            large = n * int(np.prod(node.shape)) > MOST_NUMBERS
            if node.levels is not None and (not discrete or large or block not in self.families):
                continue
            family = self.families[block]
            x = host_draws(family, rng, n)
            if x is None:
                x = np.asarray(self._compiled(f"draws of {block}", _at, family, family.noise(rng, n)))
            found |= blocks.unflat(self.plan, block, x)
        return {name: np.asarray(found[name]) for name in known if name in found}

    @wide
    def log_prob_values(self, values: Mapping[str, Any]) -> np.ndarray:
        """Log q (n,) of values of all sites, draws first, in the model's own space."""

        def one(families: dict[str, Any], values: Mapping[str, Any]) -> Any:
            some = [b for b, names in self.plan.blocks.items() if names[0] in values and b in families]
            return sum(
                families[block].log_prob(blocks.flat(self.plan, block, values)) for block in some
            ) - self._volume(values)

        return np.asarray(jax.jit(jax.vmap(one, (None, 0)))(self.families, dict(values)))

    def _volume(self, values: Mapping[str, Any]) -> Any:
        """From the densities of logarithms and logits to those of the sites."""
        ways = {name: self.plan.layout.way(name) for name in self.plan.layout.offset if name in values}  # type: ignore[union-attr]
        moved = sum((way.log_slope(way.own(values[name])).sum() for name, way in ways.items()), jnp.zeros(()))
        return moved + sum(blocks.volume(self.plan, values).values())

    @wide
    def log_joint(self, values: Mapping[str, Any]) -> np.ndarray:
        """Log p(values, data) (n,) at values of all sites, draws first, in the model's own space."""

        def one(energy: Any, values: Mapping[str, Any]) -> Any:
            joint = energy(blocks.statistics(self.plan, self.families, values))
            return joint - sum(blocks.volume(self.plan, values).values())

        call = jax.jit(lambda energy, values: jax.lax.map(lambda v: one(energy, v), values, batch_size=16))
        return np.asarray(call(self.plan.energy, dict(values)))

    # -- the flat unconstrained vector ---------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Independent draws (n, D) of the flat vector."""
        return self.flatten(self.values(rng, n, discrete=False))

    @wide
    def flatten(self, values: Mapping[str, Any]) -> np.ndarray:
        """The flat vector (n, D) from values of the sites, draws first."""
        some = {site.name: values[site.name] for site in self.model.sites}
        free = jax.jit(jax.vmap(self.model.unconstrain, in_axes=(0, None)))(some, dict(self.model.data))
        return np.concatenate(
            [np.asarray(free[site.name]).reshape(len(some[site.name]), -1) for site in self.model.sites], 1
        )

    @wide
    def log_prob(self, z: Any) -> np.ndarray:
        """Log q (n,) at points z (n, D): the discrete sites are summed out, the Jacobian is in it."""

        def one(z: Any, data: Any) -> tuple[Any, Any]:
            free = layout.unflatten(self.model.sites, z)
            jacobian = self.model.factors(free, data).jacobian
            return self.model.constrain(free, data)[0], sum((j.sum() for j in jacobian.values()), jnp.zeros(()))

        values, jacobian = jax.jit(jax.vmap(one, in_axes=(0, None)))(np.asarray(z), dict(self.model.data))
        return self.log_prob_values({site.name: values[site.name] for site in self.model.sites}) + np.asarray(jacobian)


def _at(family: Any, noise: Any) -> Any:
    return family.at(noise)


def host_draws(family: Any, rng: np.random.Generator, n: int) -> np.ndarray | None:
    """Draws (n, *shape) by NumPy, which needs no compilation; None for families it has no generator for."""
    if isinstance(family, Gamma | InverseGamma):
        a, b = np.asarray(family.concentration), np.asarray(family.rate)
        x = rng.gamma(a, size=(n, *np.broadcast_shapes(a.shape, b.shape)))
        x = _inside(x / b if isinstance(family, Gamma) else x)
        return x if isinstance(family, Gamma) else _inside(b / x)
    if isinstance(family, Beta):
        return rng.beta(family.a, family.b, size=(n, *np.broadcast_shapes(np.shape(family.a), np.shape(family.b))))
    if isinstance(family, Dirichlet):
        x = _inside(rng.gamma(np.asarray(family.concentration), size=(n, *np.shape(family.concentration))))
        return x / x.sum(-1, keepdims=True)
    if isinstance(family, Categorical):
        return _levels(np.asarray(family.logits), rng, n)
    if isinstance(family, Gaussian) and family.pattern.size == family.pattern.diagonal:
        sd = 1 / np.sqrt(np.asarray(family.pattern.variances(family.precision)))
        return np.asarray(family.h) * sd**2 + sd * rng.standard_normal((n, family.pattern.n))
    return None


def _levels(logits: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """Levels (n, ...) by their distribution functions; `Categorical.at` in few numbers of memory."""
    reached = np.cumsum(softmax(np.moveaxis(logits, -1, 0), 0), 0)
    found = np.zeros((n, *logits.shape[:-1]), np.int32)
    for draw in found:
        share = (1.0 - rng.random(draw.shape)) * reached[-1]
        for level in reached[:-1]:
            draw += share > level
    return found


def _inside(draws: np.ndarray) -> np.ndarray:
    """Draws moved off 0 and infinity."""
    limits = np.finfo(draws.dtype)
    return np.clip(draws, limits.tiny, limits.max)


def completed(plan: Plan, families: dict[str, Any]) -> dict[str, Any]:
    """Families with those of the discrete sites that a fit in passes leaves out, unless they are too large to be kept."""
    found = dict(families)
    for block, names in plan.blocks.items():
        node = blocks.nodes(plan)[names[0]]
        if block not in families and int(np.prod(node.shape)) * (node.levels or 1) <= MOST_NUMBERS:
            probs = responsibilities(plan, families, block)
            found[block] = Categorical(jnp.log(probs).reshape(*node.shape, -1))
    return {block: found[block] for block in plan.blocks if block in found}


@dataclass(frozen=True, eq=False)
class StoredProduct:
    """A product read from a file, without the model's code: parameters and exact moments, but no densities.

    Attributes
    ----------
    params
        Natural parameters, ``block.name`` -> array.
    means, sds
        By site, in the model's own space.
    """

    params: dict[str, np.ndarray]
    means: dict[str, np.ndarray]
    sds: dict[str, np.ndarray]
