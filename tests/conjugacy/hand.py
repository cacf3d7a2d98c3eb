"""Coordinate ascent derived by hand for the models of the zoo: plain NumPy, textbook updates, independent of the library.

    from tests.conjugacy.hand import HAND
    hand = HAND["gmm"]
    state = hand.start(arguments, np.random.default_rng(0))
    state = hand.sweep(state, arguments)      # every site once, in the order `zoo.example("gmm").order`
    hand.elbo(state, arguments)

States are described in `hand_parts`. q factorizes as `zoo.example(name).factors` says.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tests.conjugacy import hand_chains as chains
from tests.conjugacy import hand_factors as factors
from tests.conjugacy import hand_mixtures as mixtures
from tests.conjugacy import hand_regressions as regressions
from tests.conjugacy.hand_parts import Data, State


class Hand(NamedTuple):
    """A legal state to begin with, one update of every site in order, and the bound."""

    start: Callable[[Data, np.random.Generator], State]
    sweep: Callable[[State, Data], State]
    elbo: Callable[[State, Data], float]


def _hand(module, name: str) -> Hand:
    return Hand(*(getattr(module, f"{name}_{part}") for part in Hand._fields))


HAND = {
    "ugmm": _hand(mixtures, "ugmm"),
    "gmm": _hand(mixtures, "gmm"),
    "gmm_diagonal": _hand(mixtures, "gmm"),
    "gmm_full": _hand(mixtures, "gmm_full"),
    "mixture_of_regressions": _hand(mixtures, "mixture_of_regressions"),
    "lda": _hand(mixtures, "lda"),
    "regression": _hand(regressions, "regression"),
    "inverse_gamma": _hand(regressions, "inverse_gamma"),
    "student_mixture": _hand(regressions, "student_mixture"),
    "probit": _hand(regressions, "probit"),
    "probit_ndtr": _hand(regressions, "probit"),
    "multilevel": _hand(regressions, "multilevel"),
    "multilevel_correlated": _hand(regressions, "multilevel"),
    "varying_slopes": _hand(regressions, "varying_slopes"),
    "hmm": _hand(chains, "hmm"),
    "hmm_split": _hand(chains, "hmm_split"),
    "factorial_hmm": _hand(chains, "factorial_hmm"),
    "random_walk": _hand(chains, "random_walk"),
    "bpca": _hand(factors, "bpca"),
    "factor_analysis": Hand(factors.factor_analysis_start, factors.bpca_sweep, factors.bpca_elbo),
    "poisson_factorization": _hand(factors, "poisson_factorization"),
    "beta_bernoulli": _hand(factors, "beta_bernoulli"),
    "gamma_poisson": _hand(factors, "gamma_poisson"),
    "dirichlet_multinomial": _hand(factors, "dirichlet_multinomial"),
    "dirichlet_multinomial_shared": Hand(
        factors.dirichlet_multinomial_shared_start,
        factors.dirichlet_multinomial_shared_sweep,
        factors.dirichlet_multinomial_elbo,
    ),
}
