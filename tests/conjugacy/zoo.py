"""The zoo: models with data, the word that automatic conjugacy must find for each site, and the mean field of the oracles.

    from tests.conjugacy.zoo import CONTROLS, MODELS, example
    gmm = example("gmm")
    gmm.model(**gmm.arguments)

Words: "exact" (conditionally conjugate: one closed update), "natural gradient" (Gaussian prior, likelihood that is not
quadratic), "free" (everything else), "refused" (a discrete site that cannot be enumerated on its own). In the controls
only sites are listed on which any implementation must agree; there, "free" means "anything but exact".

Factors of q, for a site of K x D numbers, say:
    "elements"   every number is independent
    "rows"       the last axis is one factor (a Gaussian block, a simplex, a matrix)
    "block"      the whole site is one Gaussian
    "chain"      a Markov chain over the first axis (discrete or Gaussian)
Sites are always independent of each other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from tests.conjugacy import zoo_controls as controls
from tests.conjugacy import zoo_data as simulate
from tests.conjugacy import zoo_models as models


@dataclass(frozen=True, eq=False)
class Example:
    """A model, its data, and what is expected of it.

    Attributes
    ----------
    name
        Its key in `example`.
    model
        The NumPyro function.
    simulate
        Makes the keyword arguments; takes sizes.
    sites
        Latent site -> word, in the order of the model.
    factors
        Latent site -> shape of its factors, as above.
    order
        In which a sweep updates the sites: discrete and one-per-row sites first, then the others as in the model.
    augmentation
        Auxiliary variables without which the sites are not "exact"; empty for most.
    """

    name: str
    model: Callable[..., Any]
    simulate: Callable[..., dict[str, Any]]
    sites: dict[str, str]
    factors: dict[str, str]
    order: tuple[str, ...]
    augmentation: str = ""

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Arrays and sizes: keyword arguments of the model."""
        return self.simulate()

    @property
    def data(self) -> dict[str, np.ndarray]:
        """The arrays among them."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, np.ndarray)}

    @property
    def static(self) -> dict[str, int]:
        """The sizes among them."""
        return {name: value for name, value in self.arguments.items() if not isinstance(value, np.ndarray)}

    @property
    def exact(self) -> tuple[str, ...]:
        """Names of the sites that are exact."""
        return tuple(site for site, word in self.sites.items() if word == "exact")


def _entry(model, data, factors: str, first: str = "", words: dict[str, str] | None = None, augmentation: str = ""):
    """``factors`` is ``"site:factor ..."`` in model order, ``first`` the sites that a sweep begins with."""
    shapes = dict(item.split(":") for item in factors.split())
    order = (*first.split(), *(site for site in shapes if site not in first.split()))
    sites = {site: (words or {}).get(site, "exact") for site in shapes}
    return Example(model.__name__, model, data, sites, shapes, order, augmentation)


def _control(model, data, **words: str):
    """A model with only some of its sites listed."""
    sites = {site: word.replace("_", " ") for site, word in words.items()}
    return Example(model.__name__, model, data, sites, {}, ())


_HMM = "pi:rows A:rows mu:elements tau:elements"
_MULTILEVEL = "mu:elements tau_a:elements b:block a:elements tau:elements"

MODELS = (
    _entry(models.ugmm, simulate.mixture, "mu:elements z:elements", "z"),
    _entry(models.gmm, simulate.mixture, "pi:rows mu:elements tau:elements z:elements", "z"),
    _entry(models.gmm_diagonal, simulate.mixture_rows, "pi:rows mu:elements tau:elements z:elements", "z"),
    _entry(models.gmm_full, simulate.mixture_rows, "pi:rows mu:rows L:rows z:elements", "z"),
    _entry(models.regression, simulate.linear, "alpha:elements b:block tau:elements"),
    _entry(models.multilevel, simulate.grouped, _MULTILEVEL),
    replace(_entry(models.multilevel, simulate.grouped_correlated, _MULTILEVEL), name="multilevel_correlated"),
    _entry(models.lda, simulate.tokens, "phi:rows theta:rows z:elements", "z"),
    _entry(models.hmm, simulate.chain, f"{_HMM} z:chain", "z"),
    _entry(models.hmm_split, simulate.chain, f"{_HMM} z_0:elements z:chain", "z_0 z"),
    _entry(
        models.factorial_hmm,
        simulate.two_chains,
        "A1:rows m1:elements A2:rows m2:elements tau:elements z1:chain z2:chain",
        "z1 z2",
    ),
    _entry(models.bpca, simulate.factors, "alpha:elements m:elements W:rows tau:elements h:rows", "h"),
    _entry(models.factor_analysis, simulate.factors, "alpha:elements m:elements W:rows tau:elements h:rows", "h"),
    _entry(models.beta_bernoulli, simulate.coins, "p:elements"),
    _entry(models.gamma_poisson, simulate.grouped_counts, "beta:elements lam:elements"),
    _entry(models.dirichlet_multinomial, simulate.count_rows, "theta:rows"),
    _entry(models.dirichlet_multinomial_shared, simulate.count_rows, "theta:rows"),
    _entry(
        models.poisson_factorization,
        simulate.count_table,
        "theta:elements beta:elements",
        augmentation="y_ij = sum_k y_ijk with y_ijk ~ Poisson(theta_ik beta_jk), q(y_ij.) multinomial",
    ),
    _entry(models.probit, simulate.binary_regression, "b:block", augmentation="y = 1{w > 0} with w ~ N(Xb, 1)"),
    _entry(models.probit_ndtr, simulate.binary_regression, "b:block", augmentation="y = 1{w > 0} with w ~ N(Xb, 1)"),
    _entry(models.student_mixture, simulate.heavy_tailed, "b:block tau:elements u:elements", "u"),
    _entry(models.half_normal, simulate.linear, "b:block sigma:elements", words={"sigma": "free"}),
    _entry(models.random_walk, simulate.walk, "q:elements r:elements x:chain", "x"),
    _entry(models.random_walk_fixed, simulate.walk, "x:chain"),
    _entry(models.logistic, simulate.binary_regression, "alpha:elements b:block", words={"b": "natural gradient"}),
    _entry(models.inverse_gamma, simulate.linear, "v:elements b:block"),
    _entry(models.mixture_of_regressions, simulate.regressions, "pi:rows b:rows tau:elements z:elements", "z"),
    _entry(models.varying_slopes, simulate.grouped_slopes, "mu:elements tau_b:elements b:rows tau:elements"),
)

CONTROLS = (
    _control(controls.gamma_sd, simulate.numbers, mu="exact", s="free"),
    _control(controls.gamma_shape, simulate.positive_numbers, shape="free", rate="exact"),
    _control(controls.product, simulate.numbers, b="free", tau="exact"),
    _control(controls.exp_mean, simulate.numbers, b="free", tau="exact"),
    _control(controls.student, simulate.heavy_tailed, b="free", tau="free"),
    _control(controls.marginalized_mixture, simulate.mixture, pi="free", mu="free"),
    _control(models.half_normal, simulate.linear, b="exact", sigma="free"),
    _control(models.logistic, simulate.binary_regression, alpha="exact", b="natural_gradient"),
    _control(controls.noncentered, simulate.grouped_numbers, mu="exact", tau_a="free", e="exact", tau="exact"),
    _control(controls.precision_sum, simulate.numbers, mu="exact", tau1="free", tau2="free"),
    _control(controls.block_model, simulate.network, z="refused"),
    _control(controls.second_order_chain, simulate.chain, z="refused"),
    _control(controls.two_views, simulate.mixture, z="refused"),
    _control(controls.swamped_prior, simulate.many_numbers, tau="free"),
)


def example(name: str) -> Example:
    """The model or control of that name."""
    return {entry.name: entry for entry in (*CONTROLS, *MODELS)}[name]
