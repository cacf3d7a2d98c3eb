"""A verdict per block for a structured Gaussian too large for chains: the globals, and each group given the globals.

With noise e ~ N(0, I) and u the gradient of log p with respect to it, r = u + e is zero where q is the posterior. Over a block,
E|r|^2 is the Fisher divergence of the block given everything else, and bounds the variance of its log weights (Poincare), of
which only the sum over all blocks is known otherwise, and never small for thousands of groups. It comes from the gradients at
q's own draws that are there already, in one pass that is linear in the number of groups.

    group i, given the globals    right where E|r_i|^2 < 0.1
    globals                       right along the eigenvectors of E[r_g r_g'] with eigenvalues below 0.1
    a coordinate                  trusted where its group is right and less than 4% of its variance comes from other directions of
                                  the globals, means only below 25%: a group whose rows say where it is does not care for them

`r_g` carries the groups' noise too, so that globals are refused rather than trusted. Requires a q with the arrow pattern; sees
one mode, as everything that looks at q's own draws.

Reference: Johnson, Barron (2004), Fisher information inequalities and the central limit theorem, Probab. Theory Relat. Fields 129
(the Poincare bound).
"""

from typing import Any

import numpy as np

from jensen.diagnostics.verdict import CONSTANT_WEIGHTS, DO_NOT_USE, MEANS_ONLY, TRUSTED, Verdict
from jensen.families.structured import ArrowGaussian, join, split

_LITTLE, _SOME = 0.04, 0.25
"""Share of a coordinate's variance from directions that are not right, below which it is trusted, and its mean."""
_ROUGHLY = 0.5
"""E|r|^2 of a group below which its means are right."""
_ORDER = (TRUSTED, MEANS_ONLY, DO_NOT_USE)


def misfits(q: ArrowGaussian, z: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[r_g r_g'] (p, p) of the globals and E|r_i|^2 (G,) of the groups, from draws z (n, D) of q with gradients (n, D)."""
    e_g, e_i = split(q.plates, np.asarray(q.whiten(z)))
    to_g, to_i = split(q.plates, gradient)
    u_g = to_g @ q.head + np.tensordot(to_i, q.reach, axes=([1, 2], [0, 1]))
    u_i = np.einsum("ngd,gdk->ngk", to_i, q.tails)
    r_g = u_g + e_g
    return r_g.T @ r_g / len(z), ((u_i + e_i) ** 2).sum(2).mean(0)


def words_by_coordinate(q: ArrowGaussian, globals: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Place (D,) in `trusted, means only, do not use` of every coordinate, from `misfits`."""
    values, vectors = np.linalg.eigh(globals)
    bad = vectors[:, values >= CONSTANT_WEIGHTS]
    head = ((q.head @ bad) ** 2).sum(-1) / (q.head**2).sum(-1)
    reach = ((q.reach @ bad) ** 2).sum(-1) / ((q.reach**2).sum(-1) + (q.tails**2).sum(-1))
    given = np.where(groups < CONSTANT_WEIGHTS, 0, np.where(groups < _ROUGHLY, 1, 2))
    own = np.maximum(_word(reach), given[:, None])
    return np.asarray(join(q.plates, _word(head)[None], own[None])[0])


def _word(share: np.ndarray) -> np.ndarray:
    return np.where(share < _LITTLE, 0, np.where(share < _SOME, 1, 2))


def judge_blocks(
    names: list[str],
    model: Any,
    q: ArrowGaussian,
    scores: tuple[np.ndarray, np.ndarray],
    log_weights: np.ndarray,
    why: str,
) -> Verdict:
    """Verdict on q from the gradients at its own draws.

    Parameters
    ----------
    names, model
        The judged scalars, those of the sites first, and the model.
    q, scores
        The approximation, and draws of it with their gradients.
    log_weights, why
        Of the same draws; why no chains were run.
    """
    globals, groups = misfits(q, *scores)
    place = words_by_coordinate(q, globals, groups)
    worst, begin = [], 0
    for site in model.sites:
        size, free = int(np.prod(site.shape)), site.size
        own = place[begin : begin + free]
        begin += free
        worst += list(own) if size == free else [own.max()] * size
    worst += [place.max()] * (len(names) - len(worst))  # deterministics may read any coordinate
    words = tuple(_ORDER[i] for i in worst)
    right = int((groups < CONSTANT_WEIGHTS).sum())
    both = "do too" if np.linalg.eigvalsh(globals)[-1] < CONSTANT_WEIGHTS else "do not in all directions"
    reasons = (
        f"by the gradients at q's own draws {right:,} of {len(groups):,} groups agree with the posterior given the globals; "
        f"the globals {both}",
        why,
    )
    advice = "Use it." if set(words) == {TRUSTED} else "Use what is trusted; run posterior.nuts() to know more."
    return Verdict(tuple(names), words, {}, reasons, advice, log_weights, "q")
