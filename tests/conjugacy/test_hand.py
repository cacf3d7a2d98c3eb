"""The hand derivations: sweep by sweep against BayesPy, and their bounds against the models themselves."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln
from tests.conjugacy import bayespy_oracle
from tests.conjugacy.hand import HAND
from tests.conjugacy.hand_chains import smoother
from tests.conjugacy.hand_factors import poisson_factorization_elbo
from tests.conjugacy.hand_parts import State, mean, mean_log, softmax
from tests.conjugacy.zoo import example

AUGMENTED = ("probit", "probit_ndtr", "poisson_factorization")
ALONE = tuple(name for name in HAND if name not in (*bayespy_oracle.BUILD, *AUGMENTED))


def _fit(name: str, sweeps: int, seed: int = 0) -> tuple[State, State, np.ndarray]:
    """Start, end and bounds."""
    hand, data = HAND[name], example(name).arguments
    start = state = hand.start(data, np.random.default_rng(seed))
    elbos = []
    for _ in range(sweeps):
        state = hand.sweep(state, data)
        elbos.append(hand.elbo(state, data))
        if len(elbos) > 200 and elbos[-1] - elbos[-2] < 1e-12:
            break
    return start, state, np.array(elbos)


@pytest.mark.parametrize("name", bayespy_oracle.BUILD)
def test_sweeps_are_those_of_bayespy(name):
    pytest.importorskip("bayespy")
    start, state, elbos = _fit(name, 10)
    record = example(name)
    expected, moments = bayespy_oracle.run(name, record.arguments, start, record.order, 10)
    np.testing.assert_allclose(elbos, expected, rtol=1e-12)
    for site, q in state.items():
        if "mean" in q:
            center = moments[site][0].squeeze()
            center = center.T if site == "mu" and center.ndim == 2 and name == "gmm_diagonal" else center
            np.testing.assert_allclose(q["mean"], center, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", HAND)
def test_bound_rises(name):
    _, state, elbos = _fit(name, 20, seed=1)
    assert np.diff(elbos).min() >= -1e-13 * np.abs(elbos).max()
    assert list(example(name).order) == sorted(state, key=example(name).order.index)


def _moves(q, rng) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Small legal changes of one site."""
    for parameter, value in q.items():
        size = 1e-4 * rng.standard_normal(np.shape(value))
        for signed in (-size, size):
            if parameter == "mean":
                yield parameter, {**q, parameter: value + signed}
            elif parameter == "probs":
                yield parameter, {**q, parameter: softmax(np.log(value + 1e-300) + signed)}
            elif parameter == "cov":
                yield parameter, {**q, parameter: value * (1 + signed.flat[0])}
            else:
                yield parameter, {**q, parameter: value * (1 + signed)}


@pytest.mark.parametrize("name", HAND)
def test_every_update_is_the_best(name):
    """After the update of a site (earlier sites new, later ones old) no small change of it raises the bound."""
    hand, data, rng = HAND[name], example(name).arguments, np.random.default_rng(2)
    # The allocation of the augmented models is kept inside of a sweep: there, look at the fixed point.
    _, old, _ = _fit(name, 2000 if name in AUGMENTED else 3)
    new, state = hand.sweep(old, data), dict(old)
    for site in example(name).order:
        q = state[site] = new[site]
        best = hand.elbo(state, data)
        if "pairs" in q or "lag" in q:  # chains: what the update makes of slightly different other sites
            other = {name: {key: value * 1.001 for key, value in part.items()} for name, part in old.items()}
            moves = iter([("chain", hand.sweep({**other, site: old[site]}, data)[site])])
        else:
            moves = _moves(q, rng)
        for parameter, moved in moves:
            assert hand.elbo({**state, site: moved}, data) - best < 1e-10 * abs(best), (site, parameter)


# -- the bound is E_q log p - E_q log q with p from NumPyro and q from SciPy ---------------------------------------------


def _draw_gaussian_chain(q, rng, n):
    x = np.zeros((n, len(q["mean"])))
    log_q = np.zeros(n)
    center, var = q["mean"][0], q["var"][0]
    for t in range(x.shape[1]):
        if t:
            slope = q["lag"][t - 1] / q["var"][t - 1]
            center = q["mean"][t] + slope * (x[:, t - 1] - q["mean"][t - 1])
            var = q["var"][t] - slope * q["lag"][t - 1]
        x[:, t] = center + np.sqrt(var) * rng.standard_normal(n)
        log_q += stats.norm.logpdf(x[:, t], center, np.sqrt(var))
    return x, log_q


def _draw_categorical(probs, rng, n):
    probs = np.broadcast_to(probs, (n, *probs.shape))
    z = (rng.random(probs.shape[:-1])[..., None] > probs.cumsum(-1)[..., :-1]).sum(-1)
    return z, np.log(np.take_along_axis(probs, z[..., None], -1)[..., 0]).reshape(n, -1).sum(-1)


def _draw_discrete_chain(q, rng, n):
    z = np.zeros((n, len(q["probs"])), int)
    z[:, 0], log_q = _draw_categorical(q["probs"][0], rng, n)
    for t in range(1, z.shape[1]):
        rows = q["pairs"][t - 1][z[:, t - 1]]
        rows = rows / rows.sum(-1, keepdims=True)
        z[:, t] = (rng.random(n)[:, None] > rows.cumsum(-1)[:, :-1]).sum(-1)
        log_q += np.log(rows[np.arange(n), z[:, t]])
    return z, log_q


def _draw(q, rng, n):
    """Draws of one site and their log q."""
    if "lag" in q:
        return _draw_gaussian_chain(q, rng, n)
    if "pairs" in q:
        return _draw_discrete_chain(q, rng, n)
    if "probs" in q:
        return _draw_categorical(q["probs"], rng, n)
    if "cov" in q:
        parts = [stats.multivariate_normal(m, c) for m, c in zip(*_flat(q), strict=True)]
        x = np.stack([part.rvs(n, random_state=rng).reshape(n, -1) for part in parts], 1)
        return x.reshape(n, *q["mean"].shape), sum(part.logpdf(x[:, i]) for i, part in enumerate(parts))
    if "var" in q:
        law, shape = stats.norm(q["mean"], np.sqrt(q["var"])), q["mean"].shape
    elif "rate" in q:
        law, shape = stats.gamma(q["concentration"], scale=1 / q["rate"]), np.shape(q["rate"])
    else:
        rows = [stats.dirichlet(row) for row in np.atleast_2d(q["concentration"])]
        x = np.stack([row.rvs(n, random_state=rng) for row in rows], 1)
        log_q = sum(row.logpdf(x[:, i].T) for i, row in enumerate(rows))
        return x.reshape(n, *q["concentration"].shape), log_q
    x = law.rvs((n, *shape), random_state=rng)
    return x, law.logpdf(x).reshape(n, -1).sum(-1)


def _flat(q):
    D = q["mean"].shape[-1]
    return q["mean"].reshape(-1, D), q["cov"].reshape(-1, D, D)


@pytest.mark.parametrize("name", [*ALONE, "regression", "gmm"])
def test_bound_is_that_of_the_model(name):
    import jax
    from numpyro.infer.util import log_density

    from jensen.core.precision import scope

    record, n = example(name), 1000
    _, state, elbos = _fit(name, 30)
    rng = np.random.default_rng(3)
    draws, log_q = {}, np.zeros(n)
    for site, q in state.items():
        draws[site], logs = _draw(q, rng, n)
        log_q += logs
    with scope("float64"):
        log_p = jax.jit(jax.vmap(lambda z: log_density(record.model, (), record.arguments, z)[0]))(draws)
    weights = np.asarray(log_p) - log_q
    error = weights.std() / np.sqrt(n)
    assert error < 0.3
    assert abs(weights.mean() - elbos[-1]) < 4 * error


def test_smoother_is_the_inverse_of_the_precision():
    y, q, r = example("random_walk").arguments["y"], 12.0, 3.0
    T = len(y)
    D = np.eye(T) - np.eye(T, k=-1)
    prior = np.linalg.inv(q * D.T @ D)
    cov = np.linalg.inv(q * D.T @ D + r * np.eye(T))
    x = smoother(y, q, r)
    np.testing.assert_allclose(x["mean"], r * cov @ y, atol=1e-12)
    np.testing.assert_allclose(x["var"], np.diag(cov), rtol=1e-10)
    np.testing.assert_allclose(x["lag"], np.diag(cov, 1), rtol=1e-10)
    expected = stats.multivariate_normal(np.zeros(T), prior + np.eye(T) / r).logpdf(y)
    np.testing.assert_allclose(x["log_likelihood"], expected, rtol=1e-10)


def test_probit_bound_by_truncated_normals():
    """E log N(w; x'b, 1) + H(q(w)) with SciPy's truncated Normal, plus -KL(q(b) || p(b))."""
    data = example("probit").arguments
    _, state, elbos = _fit("probit", 5)
    X, y, m, C = data["X"], data["y"], state["b"]["mean"], state["b"]["cov"]
    center = X @ m
    lower, upper = np.where(y == 1, -center, -30.0), np.where(y == 1, 30.0, -center)
    w = stats.truncnorm(lower, upper, loc=center)
    square = w.var() + (w.mean() - center) ** 2 + np.einsum("ni,ij,nj->n", X, C, X)
    rows = -0.5 * np.log(2 * np.pi) - 0.5 * square + w.entropy()
    kl = 0.5 * (np.trace(C) / 4 + m @ m / 4 - len(m) + len(m) * np.log(4) - np.linalg.slogdet(C)[1])
    np.testing.assert_allclose(elbos[-1], rows.sum() - kl, rtol=1e-9)


def test_poisson_bound_by_multinomials():
    """E log prod_k Poisson(y_k; theta_k beta_k) + H(y_1 .. y_K), entry by entry with SciPy's multinomial."""
    data = {**example("poisson_factorization").arguments}
    _, state, _ = _fit("poisson_factorization", 10)
    state = {site: {key: value[:5] for key, value in q.items()} for site, q in state.items()}
    data["y"] = data["y"][:5, :5]
    theta, beta = state["theta"], state["beta"]
    zero = poisson_factorization_elbo(state, {**data, "y": np.zeros((5, 5))})
    total = 0.0
    for (i, j), count in np.ndenumerate(data["y"]):
        log_rate = mean_log(theta)[i] + mean_log(beta)[j]
        probs, rate = softmax(log_rate), mean(theta)[i] * mean(beta)[j]
        total += np.sum(count * probs * log_rate - rate)
        values = np.arange(count + 1)[:, None]
        total -= np.sum(stats.binom.pmf(values, count, probs) * gammaln(values + 1))
        total += stats.multinomial(count, probs).entropy() if count else 0.0
        zero += np.sum(rate)
    np.testing.assert_allclose(poisson_factorization_elbo(state, data), zero + total, rtol=1e-9)
