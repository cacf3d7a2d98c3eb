"""Data for the models of `zoo_models`: drawn from them at sensible parameters, with fixed seeds and small default sizes.

Every function returns the keyword arguments of its models.
"""

import numpy as np

Arguments = dict[str, np.ndarray | int]


def mixture(N: int = 300, K: int = 3) -> Arguments:
    rng = np.random.default_rng(1)
    z = rng.choice(K, N, p=np.arange(1.0, K + 1) / (K * (K + 1) / 2))
    sd = np.linspace(0.5, 1.0, K)[z]
    return {"x": (6.0 * z - 3.0 * (K - 1)) + sd * rng.standard_normal(N), "K": K}


def mixture_rows(N: int = 400, K: int = 5, D: int = 2) -> Arguments:
    rng = np.random.default_rng(2)
    centers = 6.0 * rng.standard_normal((K, D))
    roots = rng.standard_normal((K, D, D)) * 0.4 + np.eye(D)
    z = rng.integers(K, size=N)
    return {"x": centers[z] + np.einsum("nij,nj->ni", roots[z], rng.standard_normal((N, D))), "K": K}


def regressions(N: int = 300, K: int = 3, D: int = 2) -> Arguments:
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(N), rng.standard_normal((N, D - 1))])
    b, z = 3.0 * rng.standard_normal((K, D)), rng.integers(K, size=N)
    return {"X": X, "y": (X * b[z]).sum(-1) + 0.5 * rng.standard_normal(N), "K": K}


def tokens(N: int = 1500, K: int = 4, V: int = 50, documents: int = 30) -> Arguments:
    rng = np.random.default_rng(4)
    theta, phi = rng.dirichlet(np.full(K, 0.3), documents), rng.dirichlet(np.full(V, 0.1), K)
    doc = np.sort(rng.integers(documents, size=N))
    z = (rng.random(N)[:, None] > theta[doc].cumsum(-1)[:, :-1]).sum(-1)
    word = (rng.random(N)[:, None] > phi[z].cumsum(-1)[:, :-1]).sum(-1)
    return {"word": word, "doc": doc, "K": K, "V": V, "documents": documents}


def _design(rng: np.random.Generator, N: int, D: int) -> tuple[np.ndarray, np.ndarray]:
    b = rng.standard_normal(D) * (np.arange(D) % 2 == 0)  # half of the coefficients are zero
    return rng.standard_normal((N, D)) + 0.5 * rng.standard_normal((N, 1)), b


def linear(N: int = 200, D: int = 6) -> Arguments:
    rng = np.random.default_rng(5)
    X, b = _design(rng, N, D)
    return {"X": X, "y": X @ b + 0.7 * rng.standard_normal(N)}


def heavy_tailed(N: int = 200, D: int = 4) -> Arguments:
    rng = np.random.default_rng(6)
    X, b = _design(rng, N, D)
    return {"X": X, "y": X @ b + 0.5 * rng.standard_t(4, N)}


def binary_regression(N: int = 300, D: int = 4) -> Arguments:
    rng = np.random.default_rng(7)
    X, b = _design(rng, N, D)
    return {"X": X, "y": (X @ b + rng.standard_normal(N) > 0).astype(np.int64)}


def grouped(N: int = 600, groups: int = 30, D: int = 5, center: float = 0.0) -> Arguments:
    rng = np.random.default_rng(8)
    X = rng.standard_normal((N, D)) + center
    g = rng.integers(groups, size=N)
    a, b = 1.0 + 0.8 * rng.standard_normal(groups), np.linspace(-1.0, 1.0, D)
    return {"X": X, "g": g, "y": a[g] + X @ b + rng.standard_normal(N), "groups": groups}


def grouped_correlated() -> Arguments:
    """Columns with mean 2: intercepts, coefficients and the grand mean are strongly correlated a posteriori."""
    return grouped(N=1000, groups=20, center=2.0)


def grouped_slopes(N: int = 600, groups: int = 25, D: int = 2) -> Arguments:
    rng = np.random.default_rng(9)
    X = np.column_stack([np.ones(N), rng.standard_normal((N, D - 1))])
    g = rng.integers(groups, size=N)
    b = np.array([1.0, -0.5] + [0.0] * (D - 2)) + 0.6 * rng.standard_normal((groups, D))
    return {"X": X, "g": g, "y": (X * b[g]).sum(-1) + 0.5 * rng.standard_normal(N), "groups": groups}


def _chain(rng: np.random.Generator, T: int, K: int, stay: float) -> np.ndarray:
    z = np.zeros(T, int)
    for t in range(1, T):
        z[t] = z[t - 1] if rng.random() < stay else rng.integers(K)
    return z


def chain(T: int = 200, K: int = 3) -> Arguments:
    rng = np.random.default_rng(10)
    return {"y": 3.0 * _chain(rng, T, K, 0.9) - 3.0 + 0.6 * rng.standard_normal(T), "K": K}


def two_chains(T: int = 150) -> Arguments:
    rng = np.random.default_rng(11)
    z1, z2 = _chain(rng, T, 2, 0.9), _chain(rng, T, 3, 0.8)
    return {"y": 6.0 * z1 + 1.5 * z2 + 0.4 * rng.standard_normal(T)}


def walk(T: int = 100) -> Arguments:
    rng = np.random.default_rng(12)
    return {"y": np.cumsum(0.25 * rng.standard_normal(T)) + 0.5 * rng.standard_normal(T)}


def factors(N: int = 80, D: int = 6, K: int = 3) -> Arguments:
    rng = np.random.default_rng(13)
    W = rng.standard_normal((D, K)) * (np.arange(K) < 2)  # one factor more than the data have
    return {"x": rng.standard_normal((N, K)) @ W.T + np.arange(D) + 0.5 * rng.standard_normal((N, D)), "K": K}


def count_table(N: int = 40, D: int = 25, K: int = 3) -> Arguments:
    rng = np.random.default_rng(14)
    return {"y": rng.poisson(rng.gamma(0.5, 2.0, (N, K)) @ rng.gamma(0.5, 2.0, (D, K)).T), "K": K}


def coins(N: int = 50) -> Arguments:
    return {"y": (np.random.default_rng(15).random(N) < 0.3).astype(np.int64)}


def grouped_counts(N: int = 300, groups: int = 20) -> Arguments:
    rng = np.random.default_rng(16)
    g = rng.integers(groups, size=N)
    return {"y": rng.poisson(rng.gamma(3.0, 1.5, groups)[g]), "g": g, "groups": groups}


def count_rows(N: int = 30, V: int = 6) -> Arguments:
    rng = np.random.default_rng(17)
    return {"counts": np.stack([rng.multinomial(20 + n, p) for n, p in enumerate(rng.dirichlet(np.ones(V), N))])}


def numbers(N: int = 100) -> Arguments:
    return {"y": 1.0 + 0.8 * np.random.default_rng(18).standard_normal(N)}


def positive_numbers(N: int = 100) -> Arguments:
    return {"y": np.random.default_rng(19).gamma(2.5, 0.5, N)}


def grouped_numbers(N: int = 300, groups: int = 20) -> Arguments:
    rng = np.random.default_rng(20)
    g = rng.integers(groups, size=N)
    return {"y": 1.0 + 0.8 * rng.standard_normal(groups)[g] + rng.standard_normal(N), "g": g, "groups": groups}


def network(N: int = 20) -> Arguments:
    rng = np.random.default_rng(21)
    z = rng.integers(2, size=N)
    return {"edges": (rng.random((N, N)) < np.array([[0.7, 0.1], [0.2, 0.6]])[z[:, None], z]).astype(np.int64), "K": 2}


def many_numbers() -> Arguments:
    return numbers(1_000_000)
