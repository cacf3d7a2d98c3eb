"""Shape parameters: concentrations of Gamma, inverse Gamma and Dirichlet nodes that are sites themselves.

With a = c s^p of one positive site s, a log density has two terms of a that no other rule has,

    a * sum_k log r_k          E[a] * sum_k E[log r_k]: affine in each site's moments
    -log Gamma(a)              no statistic of any family: the logarithm of s is Gaussian, and its expectation a quadrature

so that s takes damped steps, or is sliced by Gibbs sampling, and every other site keeps its exact update.

    LogGammas = sum_c stat_c sum_k w_k log Gamma(exp(log_scale_c + p_c (m_c + sd_c t_k))),   t_k, w_k of Gauss and Hermite
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from jensen.conjugate.hermite import NODES, WEIGHTS
from jensen.conjugate.layout import Layout
from jensen.conjugate.pieces import POINT
from jensen.conjugate.places import static
from jensen.conjugate.slots import Affine, Slot, fit, like
from jensen.conjugate.terms import Curved, Mean, MeanLog, NotConjugate, Reader, Term
from jensen.models.graph import Node


class Shape(NamedTuple):
    """A shape parameter scale * s^p of one positive site."""

    scale: np.ndarray
    read: Slot

    def times(self, log: Affine) -> list[Term]:
        """E[a log], with log an affine array of logarithms of other sites."""
        if self.read.site in log.sites:
            raise NotConjugate({self.read.site}, f"{self.read.site} is a shape and multiplied with its own logarithm")
        scale, terms = like(self.scale, log), list[Term]()
        if np.any(log.constant):
            terms.append(Mean(scale * log.constant, (self.read,)))
        if log.slots:
            terms.append(MeanLog(scale, (self.read,), log.slots))
        return terms

    def normalizer(self, stat: float) -> Curved:
        """The term stat * E[log Gamma(a)]."""
        return Curved(np.array(stat), self.scale, self.read)

    def total(self, node: Node, length: int) -> "Shape":
        """The sum along the last axis, which must be over multiples of one element."""
        index, power = (np.broadcast_to(part, (*part.shape[:-1], length)) for part in self.read[1:])
        if np.ptp(index, -1).any() or np.ptp(power, -1).any():
            raise NotConjugate(
                {self.read.site},
                f"the concentrations of {node.name} ({node.distribution}) are not multiples of one site",
            )
        scale = np.broadcast_to(self.scale, (*self.scale.shape[:-1], length)).sum(-1, keepdims=True)
        return Shape(scale, self.read._replace(index=index[..., :1], weight=power[..., :1]))


def read_shape(node: Node, leaf: str, reader: Reader) -> Shape | None:
    """A leaf that is a power of one positive site times data; None where it is data.

    Raises
    ------
    NotConjugate
        For every other function of sites.
    """
    sites = reader.continuous(reader.probe.parents[node.name][leaf])
    if not sites:
        return None
    log = reader.affine(node, leaf, "log")
    if len(log.slots) != 1 or reader.latents[log.slots[0].site].support != "positive":
        raise NotConjugate(sites, f"{leaf} of {node.name} ({node.distribution}) is no power of one positive site")
    return Shape(np.exp(log.constant), log.slots[0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LogGammas:
    """The quadrature above; arrays (cells,), elements of the block in `index`."""

    stat: Any
    log_scale: Any
    power: Any
    index: Any
    block: str = static()

    def __call__(self, moments: Any) -> Any:
        """The sum, a scalar."""
        own = moments[self.block]
        if POINT in own:
            return self.at(own["mean"]).sum()
        mean, sd = own["mean"][self.index], jnp.sqrt(own["cov"][self.index] + 1e-300)
        return (self.stat * (self._log_gamma(mean[:, None] + sd[:, None] * NODES) @ WEIGHTS)).sum()

    def at(self, x: Any) -> Any:
        """What each element of the block (n,) adds at a point x (n,)."""
        part = self.stat * self._log_gamma(x[self.index][:, None])[:, 0]
        return jnp.zeros_like(x).at[self.index].add(part)

    def _log_gamma(self, x: Any) -> Any:
        return gammaln(jnp.exp(self.log_scale[:, None] + self.power[:, None] * x))


def log_gammas(term: Curved, shape: tuple[int, ...], layout: Layout) -> LogGammas:
    """The piece of a curved term over rows of a shape: rows with the same scale, power and element are counted."""
    index = term.read.index + layout.offset[term.read.site]
    parts = [fit(np.asarray(p, float), len(shape))[0] for p in (term.stat, np.log(term.scale), term.read.weight, index)]
    varying = np.broadcast_shapes(*(part.shape for part in parts))
    rows = np.stack([np.broadcast_to(part, varying).reshape(-1) for part in parts], 1)
    cells, count = np.unique(rows, axis=0, return_counts=True)
    stat, log_scale, power, place = cells.T
    times = count * (np.prod(shape, dtype=float) / np.prod(varying, dtype=float))
    return LogGammas(stat * times, log_scale, power, place.astype(int), layout.block[term.read.site])
