"""Four data sets of 40,000 to 200,000 rows, and one that is streamed: models, references, and the best that NumPy can do.

w06: 100 columns with a mean and an sd each; w07b: logistic regression on correlated columns; w08: a straight line through points
sorted in x; w11b: 5,000 groups of very different sizes. References are means and sds of the posterior (not of a family) in
the model's own space: quadrature over scales, with everything else in closed form, and for logistic regression the mode with the
next term of the expansion in 1 / N, which at D = 50 is 0.03 sds and leaves less than 0.001.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Moments = dict[str, tuple[Any, Any]]
"""Site -> its means and its sds."""
STREAMED = 20
"""Columns of the streamed logistic regression."""


class Case(NamedTuple):
    """Data, names of the positive sites, size of a batch, and functions.

    ``numpyro(batch)`` and ``pymc(batch)`` make the model, on all rows where batch is None; ``reference()`` and ``floor()`` give
    moments, exact ones and those of the least work in NumPy.
    """

    data: dict[str, np.ndarray]
    positive: tuple[str, ...]
    batch: int
    numpyro: Callable[[int | None], Any]
    pymc: Callable[[int], Any]
    reference: Callable[[], Moments]
    floor: Callable[[], Moments]


def log_normal(mean: Any, sd: Any) -> tuple[Any, Any]:
    """Mean and sd of exp(t), t ~ N(mean, sd^2)."""
    center = np.exp(mean + sd**2 / 2)
    return center, center * np.sqrt(np.expm1(sd**2))


def _weights(log_p: np.ndarray) -> np.ndarray:
    """Weights along the last axis that sum to one."""
    p = np.exp(log_p - log_p.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def _half_cauchy(t: Any, scale: float) -> Any:
    """Log density of t = log sigma, up to a constant."""
    return t - np.log1p(np.exp(2 * t) / scale**2)


def normals() -> Case:
    """w06: 40,000 x 100; mu_j flat, sd_j ~ HalfNormal(1), x_ij ~ N(mu_j, sd_j)."""
    n, d = 40_000, 100
    rng = np.random.default_rng(6)
    x = rng.random((n, d)) * rng.integers(1, 10, size=d)
    x = x + rng.random(d) * 10

    def numpyro_model(batch=None):
        import numpyro
        import numpyro.distributions as dist

        def model(x):
            mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), (d,)))
            sd = numpyro.sample("sd", dist.HalfNormal(np.ones(d)).to_event(1))
            with numpyro.plate("N", n, subsample_size=batch) as i:
                numpyro.sample("like", dist.Normal(mu, sd).to_event(1), obs=x if batch is None else x[i])

        return model

    def pymc_model(batch):
        import pymc as pm

        with pm.Model() as model:
            mu = pm.Flat("mu", shape=(d,))
            sd = pm.HalfNormal("sd", shape=(d,))
            pm.Normal("like", mu, sd, observed=pm.Minibatch(x, batch_size=batch), total_size=n)
        return model

    def reference():
        # mu_j | t_j ~ N(mean, exp(2 t_j) / n), so that log p(t) = -(n - 1) t - S exp(-2 t) / 2 - exp(2 t) / 2 + t.
        mean = x.mean(0)
        square = ((x - mean) ** 2).sum(0)[:, None]
        t = np.log(x.std(0))[:, None] + np.linspace(-8, 8, 801) / np.sqrt(2 * n)
        p, sigma = _weights(-(n - 2) * t - square * np.exp(-2 * t) / 2 - np.exp(2 * t) / 2), np.exp(t)
        center = (p * sigma).sum(1)
        spread = np.sqrt((p * (sigma - center[:, None]) ** 2).sum(1))
        return {"mu": (mean, np.sqrt((p * sigma**2).sum(1) / n)), "sd": (center, spread)}

    def floor():
        mean = x.mean(0)
        square = np.einsum("ij,ij->j", x, x) - n * mean**2
        t = np.log(square / n) / 2
        for _ in range(3):
            curvature = 2 * square * np.exp(-2 * t) + 2 * np.exp(2 * t)
            t = t + (square * np.exp(-2 * t) - np.exp(2 * t) - n + 2) / curvature
        return {"mu": (mean, np.exp(t) / np.sqrt(n)), "sd": log_normal(t, 1 / np.sqrt(curvature))}

    return Case({"x": x}, ("sd",), 500, numpyro_model, pymc_model, reference, floor)


def correlated() -> tuple[np.ndarray, np.ndarray]:
    """Columns and outcomes of the logistic regression."""
    n, k = 200_000, 50
    rng = np.random.default_rng(71)
    X = rng.normal(size=(n, k))
    for j in range(1, k):
        X[:, j] = 0.5 * X[:, j - 1] + np.sqrt(0.75) * X[:, j]
    beta = rng.normal(size=k) * 0.4
    y = (rng.random(n) < 1 / (1 + np.exp(0.3 - X @ beta))).astype(float)
    return np.ascontiguousarray(X), y


def logistic() -> Case:
    """w07b: 200,000 x 50, neighboring columns correlated by 0.5; Normal(0, 4) priors."""
    X, y = correlated()
    n, k = X.shape

    def pymc_model(batch):
        import pymc as pm

        with pm.Model() as model:
            b0 = pm.Normal("b0", 0, 4)
            b = pm.Normal("b", 0, 4, shape=k)
            some_X, some_y = pm.Minibatch(X, y, batch_size=batch)
            pm.Bernoulli("y", logit_p=b0 + some_X @ b, observed=some_y, total_size=n)
        return model

    def blocks():
        yield from zip(np.array_split(X, 40), np.array_split(y, 40), strict=True)

    return Case(
        {"X": X, "y": y},
        (),
        1000,
        lambda batch=None: logistic_model(n, k, batch),
        pymc_model,
        lambda: logistic_moments(blocks, k),
        lambda: logistic_moments(blocks, k, third=False),
    )


def logistic_model(n: int, k: int, batch: int | None = None) -> Any:
    """Logistic regression in NumPyro; n is None where the rows are streamed."""
    import numpyro
    import numpyro.distributions as dist

    def model(X, y):
        b0 = numpyro.sample("b0", dist.Normal(0.0, 4.0))
        b = numpyro.sample("b", dist.Normal(0.0, 4.0).expand([k]).to_event(1))
        with numpyro.plate("N", n or X.shape[0], subsample_size=batch) as i:
            some_X, some_y = (X, y) if batch is None else (X[i], y[i])
            numpyro.sample("y", dist.Bernoulli(logits=b0 + some_X @ b), obs=some_y)

    return model


def logistic_moments(
    blocks: Callable[[], Any], k: int, b: np.ndarray | None = None, third: bool = True, steps: int = 20
) -> Moments:
    """The mode by Newton's method, sds by the curvature there, and from the mode to the mean: half H^-1 f'''[H^-1]."""
    b = np.zeros(k + 1) if b is None else b
    for _ in range(steps):
        slope, hessian = -b / 16, np.eye(k + 1) / 16
        for X, y in blocks():
            A = np.column_stack([np.ones(len(X)), X])
            p = 1 / (1 + np.exp(-(A @ b)))
            slope = slope + A.T @ (y - p)
            hessian = hessian + (A * (p * (1 - p))[:, None]).T @ A
        step = np.linalg.solve(hessian, slope)
        b = b + step
        # Newton's next step is about the square of this one, times the skewness.
        if np.sqrt(step @ hessian @ step) < 1e-2:
            break
    covariance = np.linalg.inv(hessian)
    sd, shift = np.sqrt(np.diagonal(covariance)), np.zeros(k + 1)
    if third:
        for X, _ in blocks():
            A = np.column_stack([np.ones(len(X)), X])
            p = 1 / (1 + np.exp(-(A @ b)))
            shift -= A.T @ (p * (1 - p) * (1 - 2 * p) * ((A @ covariance) * A).sum(1))
    mean = b + covariance @ shift / 2
    return {"b0": (mean[0], sd[0]), "b": (mean[1:], sd[1:])}


def line(n: int = 50_000) -> Case:
    """w08: y ~ N(a + b x, sigma), x sorted; N(0, 20) coefficients and sigma ~ HalfCauchy(10)."""
    rng = np.random.default_rng(8)
    x = np.linspace(0, 1, n)
    y = 1 + 2 * x + rng.normal(scale=0.5, size=n)

    def numpyro_model(batch=None):
        import numpyro
        import numpyro.distributions as dist

        def model(x, y):
            sigma = numpyro.sample("sigma", dist.HalfCauchy(10.0))
            a = numpyro.sample("Intercept", dist.Normal(0.0, 20.0))
            b = numpyro.sample("x", dist.Normal(0.0, 20.0))
            with numpyro.plate("N", n, subsample_size=batch) as i:
                some_x, some_y = (x, y) if batch is None else (x[i], y[i])
                numpyro.sample("y", dist.Normal(a + b * some_x, sigma), obs=some_y)

        return model

    def pymc_model(batch):
        import pymc as pm

        with pm.Model() as model:
            sigma = pm.HalfCauchy("sigma", beta=10, initval=1.0)
            a = pm.Normal("Intercept", 0, sigma=20)
            b = pm.Normal("x", 0, sigma=20)
            some_x, some_y = pm.Minibatch(x, y, batch_size=batch)
            pm.Normal("y", mu=a + b * some_x, sigma=sigma, observed=some_y, total_size=n)
        return model

    def statistics():
        X = np.array([[n, x.sum()], [x.sum(), x @ x]])
        Xy = np.array([y.sum(), x @ y])
        center = np.linalg.solve(X, Xy)
        rest = y - center[0] - center[1] * x
        return X, center, rest @ rest

    def given(X, center, square, t):
        """Log density of t = log sigma, and mean and covariance of the coefficients given t."""
        precision = X * np.exp(-2 * t) + np.eye(2) / 400
        covariance = np.linalg.inv(precision)
        mean = covariance @ X @ center * np.exp(-2 * t)
        off = center - mean
        square = square + off @ X @ off
        log_p = -n * t - square * np.exp(-2 * t) / 2 - mean @ mean / 800 - np.linalg.slogdet(precision)[1] / 2
        return log_p + _half_cauchy(t, 10.0), mean, covariance

    def reference():
        found = statistics()
        t = np.log(found[2] / n) / 2 + np.linspace(-8, 8, 401) / np.sqrt(2 * n)
        log_p, means, covariances = zip(*(given(*found, one) for one in t), strict=True)
        p, means = _weights(np.array(log_p)), np.array(means)
        mean = p @ means
        sd = np.sqrt(p @ ((means - mean) ** 2 + np.diagonal(np.array(covariances), axis1=1, axis2=2)))
        sigma = p @ np.exp(t)
        return {
            "sigma": (sigma, np.sqrt(p @ (np.exp(t) - sigma) ** 2)),
            "Intercept": (mean[0], sd[0]),
            "x": (mean[1], sd[1]),
        }

    def floor():
        found = statistics()
        t = np.log(found[2] / (n - 2)) / 2  # the prior of sigma is flat at this width
        _, mean, covariance = given(*found, t)
        sd = np.sqrt(np.diagonal(covariance))
        return {"sigma": log_normal(t, 1 / np.sqrt(2 * n)), "Intercept": (mean[0], sd[0]), "x": (mean[1], sd[1])}

    return Case({"x": x, "y": y}, ("sigma",), 500, numpyro_model, pymc_model, reference, floor)


def multilevel() -> Case:
    """w11b: y ~ N(a_g + b x, sigma_y), a_g ~ N(mu_a + gamma u_g, sigma_a); 5,000 groups, 100,000 rows."""
    groups, n = 5000, 100_000
    rng = np.random.default_rng(111)
    p = rng.gamma(0.8, 1.0, groups) + 0.05
    g = np.sort(np.r_[np.arange(groups), rng.choice(groups, n - groups, p=p / p.sum())]).astype(np.int32)
    u = rng.normal(size=groups)
    a = 1.4 + 0.7 * u + 0.3 * rng.normal(size=groups)
    x = (rng.random(n) < 0.17).astype(float)
    y = a[g] - 0.65 * x + 0.75 * rng.normal(size=n)

    def numpyro_model(batch=None):
        import numpyro
        import numpyro.distributions as dist

        def model(g, u, x, y):
            mu_a = numpyro.sample("mu_a", dist.Normal(0.0, 10.0))
            gamma = numpyro.sample("gamma", dist.Normal(0.0, 10.0))
            b = numpyro.sample("b", dist.Normal(0.0, 10.0))
            sigma_a = numpyro.sample("sigma_a", dist.HalfCauchy(5.0))
            sigma_y = numpyro.sample("sigma_y", dist.HalfCauchy(5.0))
            a = numpyro.sample("a", dist.Normal(mu_a + gamma * u, sigma_a).to_event(1))
            with numpyro.plate("N", n, subsample_size=batch) as i:
                some_g, some_x, some_y = (g, x, y) if batch is None else (g[i], x[i], y[i])
                numpyro.sample("y", dist.Normal(a[some_g] + b * some_x, sigma_y), obs=some_y)

        return model

    def pymc_model(batch):
        import pymc as pm

        with pm.Model() as model:
            mu_a, gamma, b = (pm.Normal(name, 0, 10) for name in ("mu_a", "gamma", "b"))
            sigma_a, sigma_y = pm.HalfCauchy("sigma_a", 5), pm.HalfCauchy("sigma_y", 5)
            a = pm.Normal("a", mu_a + gamma * u, sigma_a, shape=groups)
            some_g, some_x, some_y = pm.Minibatch(g, x, y, batch_size=batch)
            pm.Normal("y", a[some_g] + b * some_x, sigma_y, observed=some_y, total_size=n)
        return model

    def statistics():
        sums = (np.bincount(g, minlength=groups), np.bincount(g, x, groups), np.bincount(g, y, groups))
        return (*sums, x @ x, x @ y, y @ y, np.column_stack([np.ones(groups), u]))

    def given(found, t):
        """Log density of t = log (sigma_a, sigma_y); means and variances of (mu_a, gamma, b) and a given t."""
        count, sum_x, sum_y, xx, xy, yy, U = found
        va, vy = np.exp(2 * np.asarray(t))
        own, r = count / vy + 1 / va, sum_y / vy  # a_g given the rest has precision own and mean (r + A c) / own
        A = np.column_stack([U / va, -sum_x / vy])
        precision = np.eye(3) / 100 - (A / own[:, None]).T @ A
        precision[:2, :2] += U.T @ U / va
        precision[2, 2] += xx / vy
        h = np.array([0, 0, xy / vy]) + A.T @ (r / own)
        covariance = np.linalg.inv(precision)
        c = covariance @ h
        log_p = (-groups * t[0] - n * t[1]) - (np.log(own).sum() + yy / vy - (r * r / own).sum() - h @ c) / 2
        log_p += -np.linalg.slogdet(precision)[1] / 2 + _half_cauchy(t[0], 5.0) + _half_cauchy(t[1], 5.0)
        variance = 1 / own + ((A @ covariance) * A).sum(1) / own**2
        return log_p, np.r_[c, (r + A @ c) / own], np.r_[np.diagonal(covariance), variance]

    def mode(found):
        """Mode of t and its covariance there, by Newton's method with differences."""
        t, h = np.array([-1.0, -0.3]), 1e-3
        one, two = np.eye(2) * h
        for _ in range(20):

            def f(shift, t=t):
                return given(found, t + shift)[0]

            middle, up, down, right, left = f(0 * one), f(one), f(-one), f(two), f(-two)
            slope = np.array([up - down, right - left]) / (2 * h)
            cross = (f(one + two) - up - right + 2 * middle - down - left + f(-one - two)) / (2 * h * h)
            hessian = np.array(
                [[up + down - 2 * middle, cross * h * h], [cross * h * h, right + left - 2 * middle]]
            ) / (h * h)
            # Uphill with the sizes of the curvature, also where it is not yet negative definite.
            values, vectors = np.linalg.eigh(hessian)
            step = vectors @ ((vectors.T @ slope) / np.abs(values))
            t = t + np.clip(step, -0.5, 0.5)
            if np.abs(step).max() < 1e-6:
                break
        return t, np.linalg.inv(-hessian)

    def named(mean, sd, sigmas):
        names = ("mu_a", "gamma", "b")
        scales = dict(zip(("sigma_a", "sigma_y"), sigmas, strict=True))
        return {**{name: (mean[i], sd[i]) for i, name in enumerate(names)}, "a": (mean[3:], sd[3:]), **scales}

    def reference():
        found = statistics()
        center, covariance = mode(found)
        factor, z = np.linalg.cholesky(covariance), np.linspace(-6, 6, 31)
        points = [center + factor @ np.array([one, two]) for one in z for two in z]
        p = _weights(np.array([given(found, t)[0] for t in points]))
        mean, square = 0.0, 0.0
        for weight, t in zip(p, points, strict=True):
            if weight > 1e-14:
                _, means, variances = given(found, t)
                mean, square = mean + weight * means, square + weight * (variances + means**2)
        sigma = np.exp(np.array(points))
        scale = p @ sigma
        spread = np.sqrt(p @ (sigma - scale) ** 2)
        return named(mean, np.sqrt(square - mean**2), zip(scale, spread, strict=True))

    def floor():
        found = statistics()
        t, covariance = mode(found)
        _, mean, variance = given(found, t)
        sigmas = [log_normal(*pair) for pair in zip(t, np.sqrt(np.diagonal(covariance)), strict=True)]
        return named(mean, np.sqrt(variance), sigmas)

    data = {"g": g, "u": u, "x": x, "y": y}
    return Case(data, ("sigma_a", "sigma_y"), 1000, numpyro_model, pymc_model, reference, floor)


CASES: dict[str, Callable[..., Case]] = {"w06": normals, "w07b": logistic, "w08": line, "w11b": multilevel}
