"""Rules: the terms of every kind of node, from how its leaves read the sites.

A rule is the log density of a distribution with each function of its parameters written as a term: log scale becomes a `Log`, a
rate times a value a `Mean`, a squared residual a `Quadratic`. What cannot be written so raises `NotConjugate`.
"""

import numpy as np
from scipy.special import betaln, gammaln, multigammaln  # pyright: ignore[reportAttributeAccessIssue]

from jensen.conjugate.flat import flat, refuse_flat
from jensen.conjugate.noncentered import noncentered
from jensen.conjugate.observed import check
from jensen.conjugate.shapes import read_shape
from jensen.conjugate.slots import Affine, Pair, Slot, fit, like
from jensen.conjugate.terms import (
    ONE_MINUS,
    Entries,
    Factor,
    Log,
    MatrixQuadratic,
    Mean,
    NotConjugate,
    Predicted,
    Quadratic,
    Reader,
    Sampled,
    Term,
)
from jensen.core.errors import DataError
from jensen.models.graph import Node


def factor(node: Node, reader: Reader) -> Factor:
    """The terms of a node.

    Raises
    ------
    NotConjugate
        With the sites to blame.
    """
    levels = _levels(node, reader)
    reader.line_up(node)
    if not node.latent:
        check(node, reader)
    if node.kind in ("other", "whole"):
        return _other(node, reader, levels)
    terms, constant = _RULES[node.kind](node, reader)
    own = node.latent and node.levels is not None
    found = Factor(node, levels, own, tuple(terms), np.asarray(constant, float))
    refuse_flat(found, reader)
    return found


def _levels(node: Node, reader: Reader) -> tuple[str, ...]:
    names = frozenset().union(*reader.probe.parents[node.name].values()) - ({node.name} - reader.probe.spread)
    return tuple(name for name, latent in reader.latents.items() if latent.levels is not None and name in names)


def _other(node: Node, reader: Reader, levels: tuple[str, ...]) -> Factor:
    parents = frozenset().union(*reader.probe.parents[node.name].values())
    sites = reader.continuous(parents)
    if not parents:
        return Factor(node, (), False, (), np.zeros(()))
    if (
        node.kind == "other"
        and not levels
        and sites == {node.name}
        and (node.bounds or node.name in reader.probe.coordinate)
    ):
        return Factor(node, (), False, (Sampled(node.name),), np.zeros(()))
    raise NotConjugate(sites, f"{node.name} is {node.distribution}, for which there is no exact expectation")


def _normal(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    scale = reader.affine(node, "scale", "log").times(-2.0)
    found = reader.reading(node, "loc", "id")
    if found is not None and found.scaled is not None:
        return noncentered(node, reader, scale, found.scaled), 0.5 * scale.constant - 0.5 * np.log(2 * np.pi)
    pairs: tuple[Pair, ...] = ()
    if found is not None and found.affine is not None and found.pairs:
        loc, pairs = found.affine, tuple(Pair(p.x._replace(weight=-p.x.weight), p.y) for p in found.pairs)
    else:
        loc = reader.affine(node, "loc")
    residual = reader.affine(node, "value") + -loc
    _real_only(node, "loc", residual, reader, pairs)
    half = np.full((1,) * scale.constant.ndim, 0.5)
    terms: list[Term] = [Quadratic(np.exp(scale.constant), scale.slots, residual, pairs)]
    if scale.slots:
        terms.append(Log(half, scale.slots))
    return terms, 0.5 * scale.constant - 0.5 * np.log(2 * np.pi)


def _real_only(node: Node, leaf: str, affine: Affine, reader: Reader, pairs: tuple[Pair, ...] = ()) -> None:
    sites = affine.sites.union(slot.site for pair in pairs for slot in pair)
    wrong = {name for name in sites if reader.probe.coordinate[name] != "real"}
    if wrong:
        raise NotConjugate(
            wrong,
            f"{leaf} of {node.name} ({node.distribution}) reads {', '.join(sorted(wrong))}, which is not Gaussian",
        )


def _positive_only(node: Node, leaf: str, affine: Affine, reader: Reader) -> None:
    wrong = {name for name in affine.sites if reader.probe.coordinate[name] == "real"}
    if wrong:
        raise NotConjugate(
            wrong, f"{leaf} of {node.name} ({node.distribution}) is exponential in {', '.join(sorted(wrong))}"
        )


def _multivariate(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    residual = reader.affine(node, "value") + -reader.affine(node, "loc")
    _real_only(node, "loc", residual, reader)
    leaf = next(word for word in ("precision", "scale_tril", "covariance") if word in reader.probe.parents[node.name])
    dim = node.shape[-1]
    if not reader.continuous(reader.probe.parents[node.name][leaf]):
        matrix = reader.constant(node, leaf)
        if leaf == "scale_tril":
            matrix = matrix @ np.swapaxes(matrix, -1, -2)
        precision = matrix if leaf == "precision" else np.linalg.inv(matrix)
        sign, logdet = np.linalg.slogdet(precision)
        return [_whitened(residual, np.linalg.cholesky(precision))], 0.5 * logdet[..., None] / dim - 0.5 * np.log(
            2 * np.pi
        )
    matrix = reader.affine(node, leaf)
    if leaf == "scale_tril" or len(matrix.slots) != 1 or not _identity(matrix):
        raise NotConjugate(
            matrix.sites or reader.continuous(reader.probe.parents[node.name][leaf]),
            f"{leaf} of {node.name} is not a Wishart or inverse Wishart site itself",
        )
    slot = matrix.slots[0]
    power = {"precision": "Wishart", "covariance": "InverseWishart"}[leaf]
    if reader.latents[slot.site].kind != power:
        raise NotConjugate(
            {slot.site}, f"{leaf} of {node.name} is {slot.site}, for which {power} is the conjugate prior"
        )
    shape = np.broadcast_shapes(slot.index.shape, (1, dim, dim))
    index = np.broadcast_to(slot.index, (*slot.index.shape[:-2], *shape[-2:]))
    sign = 0.5 if leaf == "precision" else -0.5
    half = np.full((1,) * (index.ndim - 2), sign)
    logdet = Entries(half, "logdet", slot.site, index[..., 0, 0] // dim**2, node.shape[:-1])
    return [MatrixQuadratic(residual, slot.site, index), logdet], np.array(-0.5 * np.log(2 * np.pi))


def _identity(matrix: Affine) -> bool:
    """Whether an affine matrix leaf is its site: base identity plus the coordinates, weight one."""
    dim = matrix.shape[-1]
    slot = matrix.slots[0]
    return bool(np.allclose(slot.weight, 1.0) and np.allclose(matrix.constant, np.eye(dim)))


def _whitened(residual: Affine, chol: np.ndarray) -> Quadratic:
    """Rows L'r for a constant precision LL': independent residuals of unit precision, each reading all of r's slots."""
    dim = chol.shape[-1]
    lead = residual.constant.shape if residual.constant.ndim else (1, 1)
    constant = np.einsum("...ij,...i->...j", chol, np.broadcast_to(residual.constant, (*lead[:-1], dim)))
    slots = []
    for slot in residual.slots:
        index = np.broadcast_to(slot.index, (*slot.index.shape[:-1], dim))
        weight = np.broadcast_to(slot.weight, (*slot.weight.shape[:-1], dim))
        for i in range(dim):  # row j reads element i of the residual with weight L_ij
            row = chol[..., i, :] * weight[..., i : i + 1]
            slots.append(Slot(slot.site, index[..., i : i + 1], row))
    return Quadratic(np.ones((1,) * len(lead)), (), Affine(constant, tuple(slots)))


def _gamma(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    rate, value = reader.affine(node, "rate", "log"), _log_value(node, reader)
    _positive_only(node, "rate", rate, reader)
    sign = 1.0 if node.kind == "Gamma" else -1.0
    terms: list[Term] = [Mean(-np.exp(rate.constant + sign * value.constant), rate.slots + value.times(sign).slots)]
    if shape := read_shape(node, "concentration", reader):
        terms += [*shape.times(rate + value.times(sign)), shape.normalizer(-1.0), *_times(-np.ones(()), value)]
        return terms, -value.constant
    a = reader.constant(node, "concentration")
    constant = a * rate.constant - gammaln(a) + (sign * a - 1) * value.constant
    if rate.slots:
        terms.append(Log(like(a, rate), rate.slots))
    if value.slots:
        terms.append(Log(like(sign * a - 1, value), value.slots))
    return terms, constant


def _log_value(node: Node, reader: Reader) -> Affine:
    if node.latent:
        return reader.affine(node, "value", "log")
    with np.errstate(divide="ignore"):
        return Affine(np.log(reader.affine(node, "value").constant), ())


def _beta(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    a, b = reader.constant(node, "a"), reader.constant(node, "b")
    logs = log_probability(node, "value", reader)
    return [*_times(a - 1, logs[0]), *_times(b - 1, logs[1])], -betaln(a, b) + (a - 1) * logs[0].constant + (
        b - 1
    ) * logs[1].constant


def _times(stat: np.ndarray, affine: Affine) -> list[Term]:
    return [Log(like(stat, affine), affine.slots)] if affine.slots else []


def log_probability(node: Node, leaf: str, reader: Reader) -> tuple[Affine, Affine]:
    """Logarithms of a probability p and of 1 - p, for a leaf that is a unit site (or one minus it, or constant)."""
    if leaf == "probs" and (found := reader.reading(node, leaf, "log")) is not None and found.affine is not None:
        raise NotConjugate(found.affine.sites, f"{leaf} of {node.name} is a product of powers, and 1 - {leaf} is not")
    p = reader.affine(node, leaf)
    if not p.slots:
        with np.errstate(divide="ignore"):
            return Affine(np.log(p.constant), ()), Affine(np.log1p(-p.constant), ())
    slot = p.slots[0]
    straight = np.broadcast_to(slot.weight, p.shape) == 1.0
    if len(p.slots) != 1 or not np.allclose(np.abs(slot.weight), 1.0) or not np.allclose(p.constant, 0.5):
        raise NotConjugate(p.sites, f"{leaf} of {node.name} is neither a site nor one minus it")
    if straight.all() or not straight.any():
        p_site, q_site = (slot.site, ONE_MINUS + slot.site) if straight.all() else (ONE_MINUS + slot.site, slot.site)
        one = np.ones((1,) * slot.index.ndim)
        zero = np.zeros((1,) * slot.index.ndim)
        return Affine(zero, (Slot(p_site, slot.index, one),)), Affine(zero, (Slot(q_site, slot.index, one),))
    one, zero = straight * 1.0, np.zeros((1,) * slot.index.ndim)
    index = np.broadcast_to(slot.index, p.shape)
    yes = (Slot(slot.site, index, one), Slot(ONE_MINUS + slot.site, index, 1.0 - one))
    no = (Slot(slot.site, index, 1.0 - one), Slot(ONE_MINUS + slot.site, index, one))
    return Affine(zero, yes), Affine(zero, no)


def _dirichlet(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    value = _log_value(node, reader)
    k = node.shape[-1]
    if shape := read_shape(node, "concentration", reader):
        total = shape.total(node, k)
        terms = [*shape.times(value), total.normalizer(1.0 / k), shape.normalizer(-1.0), *_times(-np.ones(()), value)]
        return terms, -value.constant
    a = reader.constant(node, "concentration")
    norm = (gammaln(a.sum(-1, keepdims=True)) - gammaln(a).sum(-1, keepdims=True)) / k
    return _times(a - 1, value), norm + (a - 1) * value.constant


def _wishart(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    df = reader.constant(node, "df")
    leaf = "rate" if node.kind == "Wishart" else "scale"
    matrix = reader.constant(node, leaf)
    dim = node.shape[-1]
    count = int(np.prod(node.shape[:-2], dtype=int))
    df = np.broadcast_to(fit(df, len(node.shape) - 2)[0], node.shape[:-2]).reshape(count)
    matrix = np.broadcast_to(fit(matrix, len(node.shape))[0], node.shape).reshape(count, dim, dim)
    logdet = np.linalg.slogdet(matrix)[1]
    sign = 1.0 if node.kind == "Wishart" else -1.0
    index = np.arange(count * dim * dim).reshape(1, count, dim * dim)
    terms: list[Term] = [
        Entries(-0.5 * matrix.reshape(1, count, dim * dim), "value", node.name, index, (count, dim * dim)),
        Entries((0.5 * (sign * df - dim - 1))[None], "logdet", node.name, np.arange(count)[None], (count,)),
    ]
    constant = 0.5 * df * logdet - 0.5 * df * dim * np.log(2) - multigammaln(0.5 * df, dim)
    return terms, np.array(constant.sum() / max(np.prod(node.shape), 1))


def _binary(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    if node.latent and node.kind == "Bernoulli":
        return _two_levels(node, reader)
    y = _data(node, reader)
    n = reader.constant(node, "total_count") if node.kind == "Binomial" else np.ones((1,) * y.ndim)
    binomial = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
    parents = reader.probe.parents[node.name]
    if "logits" in parents:
        eta = reader.affine(node, "logits")
        _real_only(node, "logits", eta, reader)
        if not eta.slots:
            return [], y * eta.constant - n * np.logaddexp(0.0, eta.constant) + binomial
        return [Predicted("logistic", {"y": y, "n": n}, eta)], binomial
    for link, rule in (("logit", "logistic"), ("probit", "probit")):
        found = reader.reading(node, "probs", link)
        if found is not None and found.affine is not None and found.affine.slots:
            _real_only(node, "probs", found.affine, reader)
            return [Predicted(rule, {"y": y, "n": n}, found.affine)], binomial
    if (found := reader.reading(node, "probs", "logit")) is not None:
        raise NotConjugate(
            reader.continuous(found.parents), f"probs of {node.name} is no known link of a linear predictor"
        )
    p, q = log_probability(node, "probs", reader)
    return [*_times(y, p), *_times(n - y, q)], y * _finite(p.constant, y) + (n - y) * _finite(
        q.constant, n - y
    ) + binomial


def _two_levels(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    """A latent Bernoulli: log(1 - p) and log p as the last axis, like the categories of a Categorical."""
    if "logits" in reader.probe.parents[node.name]:
        logits = reader.constant(node, "logits")
        return [], -np.logaddexp(0.0, np.stack([logits, -logits], -1))
    yes, no = log_probability(node, "probs", reader)
    slots = tuple(
        Slot(slot.site, slot.index[..., None], slot.weight[..., None] * level)
        for log, level in ((no, np.array([1.0, 0.0])), (yes, np.array([0.0, 1.0])))
        for slot in log.slots
    )
    constant = np.stack([no.constant, yes.constant], -1)
    return _times(np.ones(()), Affine(constant, slots)), constant


def _finite(log: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Log probabilities with 0 where they are multiplied by zero."""
    return np.where((times == 0) & np.isneginf(log), 0.0, log)


def _data(node: Node, reader: Reader) -> np.ndarray:
    """The value of an observed node."""
    if node.latent:
        raise NotConjugate(
            {node.name}, f"{node.name} is a latent {node.distribution}, whose values cannot be enumerated"
        )
    return reader.constant(node, "value").astype(float)


def _categorical(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    parents = reader.probe.parents[node.name]
    leaf = "probs" if "probs" in parents else "logits"
    log = _log_categories(node, leaf, reader)
    if node.latent:
        return _times(np.ones(()), log), log.constant
    y = _data(node, reader).astype(int)
    k = next(found.shape[-1] for word in ("log", "id") if (found := reader.reading(node, leaf, word)) is not None)
    if y.max(initial=0) >= k:
        raise DataError(f"{node.name} (Categorical) has the value {y.max()}, and its categories are 0 .. {k - 1}.")

    def pick(array: np.ndarray) -> np.ndarray:
        array = np.broadcast_to(array, (*array.shape[:-1], k))
        lead = np.broadcast_shapes(array.shape[:-1], y.shape)
        if all(length == 1 for length in array.shape[1:-1]):  # one table for all rows: take without spreading it
            rows = array.reshape(array.shape[0], k)[:, y.reshape(y.shape[1:])]
            return rows.reshape(array.shape[0], *y.shape[1:])
        array = np.broadcast_to(array, (*lead, k))
        return np.take_along_axis(array, np.broadcast_to(y, lead)[..., None], -1)[..., 0]

    slots = tuple(Slot(slot.site, pick(slot.index), pick(slot.weight)) for slot in log.slots)
    return _times(np.ones(()), Affine(np.zeros((1,) * y.ndim), slots)), pick(log.constant)


def _log_categories(node: Node, leaf: str, reader: Reader) -> Affine:
    """Log probabilities of the categories, last axis."""
    reads = reader.continuous(reader.probe.parents[node.name][leaf])
    if leaf == "logits":
        if reads:
            raise NotConjugate(reads, f"logits of {node.name} depend on {', '.join(sorted(reads))} (softmax)")
        logits = reader.constant(node, leaf)
        return Affine(logits - np.logaddexp.reduce(logits, -1, keepdims=True), ())
    if not reads:
        probs = reader.constant(node, leaf)
        with np.errstate(divide="ignore"):
            return Affine(np.log(probs / probs.sum(-1, keepdims=True)), ())
    unit = reader.reading(node, leaf, "id")
    if unit is not None and unit.affine is not None:
        return log_probability(node, leaf, reader)[0]
    log = reader.affine(node, leaf, "log")
    wrong = {slot.site for slot in log.slots if reader.latents[slot.site].support != "simplex"}
    if wrong or not all(np.isin(slot.weight, (0.0, 1.0)).all() for slot in log.slots):
        raise NotConjugate(wrong or log.sites, f"probs of {node.name} is no site on the simplex itself")
    return log


def _multinomial(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    y = _data(node, reader)
    leaf = "probs" if "probs" in reader.probe.parents[node.name] else "logits"
    log = _log_categories(node, leaf, reader)
    k = y.shape[-1]
    norm = (gammaln(y.sum(-1, keepdims=True) + 1)) / k - gammaln(y + 1)
    return _times(y, log), y * _finite(log.constant, y) + norm


def _poisson(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    y = _data(node, reader)
    found = reader.reading(node, "rate", "log")
    summed = reader.reading(node, "rate", "id")
    if (found is None or found.affine is None) and summed is not None and summed.pairs:
        return [Predicted("poisson sum", {"y": y, "pairs": summed.pairs}, Affine(np.zeros(()), ()))], -gammaln(y + 1)  # type: ignore[dict-item]
    rate = reader.affine(node, "rate", "log")
    real = {name for name in rate.sites if reader.probe.coordinate[name] == "real"}
    if real == rate.sites and real:
        return [Predicted("poisson", {"y": y}, rate)], -gammaln(y + 1)
    _positive_only(node, "rate", rate, reader)
    terms: list[Term] = [Mean(-np.exp(rate.constant), rate.slots), *_times(y, rate)]
    return terms, y * rate.constant - gammaln(y + 1)


_RULES = {
    "Flat": flat,
    "Normal": _normal,
    "MultivariateNormal": _multivariate,
    "Gamma": _gamma,
    "InverseGamma": _gamma,
    "Beta": _beta,
    "Dirichlet": _dirichlet,
    "Wishart": _wishart,
    "InverseWishart": _wishart,
    "Bernoulli": _binary,
    "Binomial": _binary,
    "Categorical": _categorical,
    "Multinomial": _multinomial,
    "Poisson": _poisson,
}
