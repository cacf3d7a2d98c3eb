"""Every PyMC distribution and feature the front end takes: value against PyMC's own log density, gradient, batching.

The reference is ``model.logp(sum=False)`` run by PyTensor's Python linker, factor by factor, at a random point.
"""

import warnings
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pymc.distributions.transforms import Chain, Interval, log, logodds, ordered
from pytensor.compile.mode import FAST_COMPILE
from pytensor.scalar.basic import NumpyAutocaster, autocast_float_as
from tests.tiers import quick

from jensen.core.layout import dim, unflatten
from jensen.core.precision import scope
from jensen.models.model import total
from jensen.models.pymc import read

RNG = np.random.default_rng(7)
NORMAL = RNG.normal(size=20)
POSITIVE = np.abs(RNG.normal(size=20)) + 0.1
COUNTS = RNG.poisson(2, size=20)
BINARY = RNG.integers(0, 2, 20)
UNIT = RNG.uniform(0.05, 0.95, 20)
DESIGN = RNG.normal(size=(20, 4))
ROWS = RNG.normal(size=(8, 3))
GRID = np.linspace(0, 1, 18)
RING = np.roll(np.eye(6), 1, 0) + np.roll(np.eye(6), -1, 0)
# XLA need not optimize what runs once.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def _sigma():
    return pm.HalfNormal("sigma", 1.0)


def _observe(x, name="y"):
    """Let the data depend on x."""
    pm.Normal(name, x.sum(), 1.0, observed=NORMAL)


def _prior(distribution, *args, **kwargs):
    """A vector with this prior, whose parameters may be functions of a positive variable."""

    def build():
        sigma = _sigma()
        args_, kwargs_ = [a(sigma) if callable(a) else a for a in args], dict(kwargs)
        for name, value in kwargs.items():
            kwargs_[name] = value(sigma) if callable(value) and name != "transform" else value
        _observe(distribution("x", *args_, shape=3, **kwargs_))

    return build


def _observed(distribution, data, **kwargs):
    """Observations with this distribution, whose parameters are functions of two variables."""

    def build():
        a, b = pm.Normal("a", 0.0, 1.0), pm.HalfNormal("b", 1.0)
        distribution("y", **{k: v(a, b) if callable(v) else v for k, v in kwargs.items()}, observed=data)

    return build


def _logistic(a, b):
    return pm.math.invlogit(a)


def _positive(a, b):
    return b


def _real(a, b):
    return a


PRIORS = {
    "Normal": _prior(pm.Normal, 0.3, lambda s: s),
    "HalfNormal": _prior(pm.HalfNormal, lambda s: s),
    "HalfCauchy": _prior(pm.HalfCauchy, lambda s: s),
    "Cauchy": _prior(pm.Cauchy, 0.3, lambda s: s),
    "StudentT": _prior(pm.StudentT, nu=lambda s: 1.0 + s, mu=0.2, sigma=lambda s: s),
    "HalfStudentT": _prior(pm.HalfStudentT, nu=3.0, sigma=lambda s: s),
    "Laplace": _prior(pm.Laplace, 0.3, lambda s: s),
    "Exponential": _prior(pm.Exponential, lambda s: s),
    "Gamma": _prior(pm.Gamma, lambda s: 1.0 + s, 2.0),
    "InverseGamma": _prior(pm.InverseGamma, lambda s: 1.0 + s, 2.0),
    "Beta": _prior(pm.Beta, lambda s: 1.0 + s, 2.0),
    "Kumaraswamy": _prior(pm.Kumaraswamy, lambda s: 1.0 + s, 2.0),
    "LogNormal": _prior(pm.LogNormal, 0.3, lambda s: s),
    "Weibull": _prior(pm.Weibull, lambda s: 1.0 + s, 2.0),
    "Pareto": _prior(pm.Pareto, lambda s: 1.0 + s, 0.5),
    "Uniform": _prior(pm.Uniform, -1.0, 2.0),
    "Uniform with bounds of a variable": _prior(pm.Uniform, lambda s: -s, lambda s: 1.0 + s),
    "Flat": _prior(pm.Flat),
    "HalfFlat": _prior(pm.HalfFlat),
    "Gumbel": _prior(pm.Gumbel, 0.3, lambda s: s),
    "Logistic": _prior(pm.Logistic, 0.3, lambda s: s),
    "LogitNormal": _prior(pm.LogitNormal, 0.3, lambda s: s, transform=logodds),
    "VonMises": _prior(pm.VonMises, 0.3, lambda s: s),
    "Moyal": _prior(pm.Moyal, 0.3, lambda s: s),
    "Rice": _prior(pm.Rice, nu=0.7, sigma=lambda s: s),
    "SkewNormal": _prior(pm.SkewNormal, mu=0.3, sigma=lambda s: s, alpha=2.0),
    "Wald": _prior(pm.Wald, mu=1.3, lam=lambda s: s),
    "Triangular": _prior(pm.Triangular, lower=-1.0, c=0.2, upper=lambda s: 1.0 + s),
    "AsymmetricLaplace": _prior(pm.AsymmetricLaplace, kappa=1.4, mu=0.2, b=lambda s: s),
    "ExGaussian": _prior(pm.ExGaussian, mu=0.2, sigma=lambda s: s, nu=1.3),
    "ChiSquared": _prior(pm.ChiSquared, lambda s: 1.0 + s),
    "TruncatedNormal": _prior(pm.TruncatedNormal, mu=0.2, sigma=lambda s: s, lower=-1.0, upper=2.0),
    "TruncatedNormal one side": _prior(pm.TruncatedNormal, mu=0.2, sigma=lambda s: s, lower=0.0),
    "PERT-like Beta by mean": _prior(pm.Beta, mu=0.4, nu=lambda s: 1.0 + s),
    "Interpolated": _prior(
        pm.Interpolated, x_points=np.linspace(-2, 2, 31), pdf_points=np.exp(-(np.linspace(-2, 2, 31) ** 2))
    ),
    "ordered": _prior(pm.Normal, 0.0, lambda s: s, transform=ordered, initval=[-1.0, 0.0, 1.0]),
    "chain of transforms": _prior(pm.HalfNormal, lambda s: s, transform=Chain([log, ordered]), initval=[0.5, 1.0, 2.0]),
}

OBSERVED = {
    "Bernoulli p": _observed(pm.Bernoulli, BINARY, p=_logistic),
    "Bernoulli logit": _observed(pm.Bernoulli, BINARY, logit_p=_real),
    "Binomial": _observed(pm.Binomial, COUNTS, n=20, p=_logistic),
    "BetaBinomial": _observed(pm.BetaBinomial, COUNTS, n=20, alpha=_positive, beta=2.0),
    "Poisson": _observed(pm.Poisson, COUNTS, mu=_positive),
    "Poisson without a positive mean": _observed(pm.Poisson, COUNTS, mu=lambda a, b: 3.0 + a),
    "NegativeBinomial": _observed(pm.NegativeBinomial, COUNTS, mu=_positive, alpha=lambda a, b: pm.math.exp(a)),
    "Geometric": _observed(pm.Geometric, COUNTS + 1, p=_logistic),
    "HyperGeometric": _observed(pm.HyperGeometric, COUNTS, N=50, k=20, n=15),
    "DiscreteUniform": _observed(pm.DiscreteUniform, COUNTS, lower=0, upper=30),
    "DiscreteWeibull": _observed(pm.DiscreteWeibull, COUNTS, q=_logistic, beta=_positive),
    "Categorical p": _observed(pm.Categorical, COUNTS % 3, p=lambda a, b: pm.math.softmax(pt.stack([a, b, 0.0]))),
    "Categorical logit": _observed(pm.Categorical, COUNTS % 3, logit_p=lambda a, b: pt.stack([a, b, 0.0])),
    "OrderedLogistic": _observed(pm.OrderedLogistic, COUNTS % 3, eta=_real, cutpoints=np.array([-0.5, 0.8])),
    "OrderedProbit": _observed(pm.OrderedProbit, COUNTS % 3, eta=_real, cutpoints=np.array([-0.5, 0.8])),
    "OrderedMultinomial": _observed(
        pm.OrderedMultinomial, np.array([[3, 4, 5], [1, 9, 2]]), eta=_real, cutpoints=np.array([-0.5, 0.8]), n=12
    ),
    "Multinomial": _observed(
        pm.Multinomial, np.array([[3, 4, 5], [1, 9, 2]]), n=12, p=lambda a, b: pm.math.softmax(pt.stack([a, b, 0.0]))
    ),
    "DirichletMultinomial": _observed(
        pm.DirichletMultinomial, np.array([[3, 4, 5], [1, 9, 2]]), n=12, a=lambda a, b: pt.stack([b, 1.0, 1.0 + b])
    ),
    "ZeroInflatedPoisson": _observed(pm.ZeroInflatedPoisson, COUNTS, psi=_logistic, mu=_positive),
    "ZeroInflatedNegativeBinomial": _observed(
        pm.ZeroInflatedNegativeBinomial, COUNTS, psi=_logistic, mu=_positive, alpha=1.5
    ),
    "ZeroInflatedBinomial": _observed(pm.ZeroInflatedBinomial, COUNTS, psi=_logistic, n=20, p=0.4),
    "HurdleGamma": _observed(pm.HurdleGamma, POSITIVE * BINARY, psi=_logistic, alpha=_positive, beta=2.0),
    "HurdlePoisson": _observed(pm.HurdlePoisson, COUNTS, psi=_logistic, mu=_positive),
    "Truncated Normal": _observed(
        pm.Truncated, POSITIVE, dist=lambda a, b: pm.Normal.dist(a, b), lower=0.0, upper=None
    ),
    "Truncated Gamma": _observed(pm.Truncated, UNIT, dist=lambda a, b: pm.Gamma.dist(2.0, b), lower=0.0, upper=1.0),
    "Truncated StudentT": _observed(
        pm.Truncated, UNIT, dist=lambda a, b: pm.StudentT.dist(nu=4.0, mu=a, sigma=b), lower=-1.0, upper=1.0
    ),
    "Censored Normal": _observed(
        pm.Censored, np.clip(NORMAL, -1, 1), dist=lambda a, b: pm.Normal.dist(a, b), lower=-1.0, upper=1.0
    ),
    "Censored Weibull": _observed(
        pm.Censored, np.minimum(POSITIVE, 1), dist=lambda a, b: pm.Weibull.dist(1.0 + b, 1.5), lower=None, upper=1.0
    ),
    "Censored StudentT": _observed(
        pm.Censored,
        np.minimum(NORMAL, 1),
        dist=lambda a, b: pm.StudentT.dist(nu=4.0, mu=a, sigma=b),
        lower=None,
        upper=1.0,
    ),
    "NormalMixture": _observed(
        pm.NormalMixture,
        NORMAL,
        w=lambda a, b: pm.math.softmax(pt.stack([a, 0.0])),
        mu=np.array([-1.0, 1.0]),
        sigma=_positive,
    ),
    "Mixture": _observed(
        pm.Mixture,
        POSITIVE,
        w=lambda a, b: pm.math.softmax(pt.stack([a, 0.0])),
        comp_dists=lambda a, b: [pm.Gamma.dist(2.0, b), pm.LogNormal.dist(a, 1.0)],
    ),
    "MatrixNormal": _observed(pm.MatrixNormal, ROWS, mu=_real, rowcov=np.eye(8), colcov=np.eye(3) + 0.2),
    "KroneckerNormal": _observed(
        pm.KroneckerNormal,
        NORMAL[:12],
        mu=np.zeros(12),
        covs=lambda a, b: [np.diag([1.0, 2.0, 3.0]), (1.0 + b) * np.diag([1.0, 2.0, 3.0, 4.0])],
        sigma=0.5,
    ),
    "AR(1)": _observed(
        pm.AR, NORMAL, rho=lambda a, b: pt.stack([a]), sigma=_positive, init_dist=pm.Normal.dist(0.0, 1.0)
    ),
    "GARCH11": _observed(
        pm.GARCH11, NORMAL, omega=_positive, alpha_1=lambda a, b: 0.3 * pm.math.invlogit(a), beta_1=0.4, initial_vol=1.0
    ),
    "MvNormal cov": _observed(pm.MvNormal, ROWS, mu=lambda a, b: pt.stack([a, 0.0, b]), cov=np.eye(3) + 0.2),
    "MvNormal tau": _observed(pm.MvNormal, ROWS, mu=np.zeros(3), tau=lambda a, b: b * pt.eye(3) + 0.1),
    "MvStudentT": _observed(pm.MvStudentT, ROWS, nu=5.0, mu=lambda a, b: a * np.ones(3), scale=np.eye(3) + 0.2),
}


def _interval_by_hand():
    _observe(pm.Normal("x", 0.0, _sigma(), transform=Interval(-2.0, 3.0), shape=3))


def _dirichlet():
    _observe(pm.Dirichlet("p", np.array([1.0, 2.0, 3.0, 4.0]))[1:])


def _stick_breaking():
    _observe(pm.StickBreakingWeights("w", alpha=2.0, K=4)[1:])


def _zero_sum():
    _observe(pm.ZeroSumNormal("z", _sigma(), shape=(4, 3), n_zerosum_axes=2)[0])


def _lkj_cholesky():
    chol, _, _ = pm.LKJCholeskyCov("chol", n=3, eta=2.0, sd_dist=pm.Exponential.dist(1.0))
    pm.MvNormal("y", mu=np.zeros(3), chol=chol, observed=ROWS)


def _lkj_corr():
    corr = pm.LKJCorr("corr", n=3, eta=2.0, return_matrix=True)
    pm.MvNormal("y", mu=np.zeros(3), cov=corr, observed=ROWS)


def _mvnormal_latent():
    b = pm.HalfNormal("b", 1.0)
    _observe(pm.MvNormal("x", mu=np.zeros(3), cov=b * pt.eye(3) + 0.2, shape=(2, 3)))


def _mvstudent_latent():
    _observe(pm.MvStudentT("x", nu=4.0, mu=np.zeros(3), scale=np.eye(3) + 0.2))


def _car():
    mu = pm.Normal("mu", 0.0, 1.0)
    _observe(pm.CAR("x", mu=mu * np.ones(6), W=RING, alpha=0.5, tau=pm.HalfNormal("tau", 1.0)))


def _icar():
    _observe(pm.ICAR("x", W=RING, sigma=1.0)[:3])


def _wishart_bartlett():
    w = pm.WishartBartlett("w", S=np.eye(3), nu=5)
    pm.MvNormal("y", mu=np.zeros(3), tau=w + pt.eye(3), observed=ROWS)


def _mixture_latent():
    _observe(pm.NormalMixture("x", w=np.array([0.3, 0.7]), mu=np.array([-1.0, 1.0]), sigma=_sigma()))


def _random_walk():
    steps = pm.GaussianRandomWalk("x", mu=0.1, sigma=_sigma(), init_dist=pm.Normal.dist(0.0, 1.0), shape=20)
    pm.Normal("y", steps, 1.0, observed=NORMAL)


def _multivariate_walk():
    x = pm.MvGaussianRandomWalk(
        "x", mu=np.zeros(3), chol=np.eye(3), init_dist=pm.MvNormal.dist(np.zeros(3), np.eye(3)), shape=(8, 3)
    )
    pm.Normal("y", x, 1.0, observed=ROWS)


def _ar2():
    rho = pm.Normal("rho", 0.0, 0.3, shape=2)
    x = pm.AR("x", rho=rho, sigma=_sigma(), init_dist=pm.Normal.dist(0.0, 1.0, size=2), shape=20)
    pm.Normal("y", x, 1.0, observed=NORMAL)


def _euler_maruyama():
    rate = pm.HalfNormal("rate", 1.0)
    x = pm.EulerMaruyama(
        "x", dt=0.1, sde_fn=lambda x, r: (-r * x, 1.0), sde_pars=(rate,), init_dist=pm.Normal.dist(0.0, 1.0), shape=20
    )
    pm.Normal("y", x, 1.0, observed=NORMAL)


def _scan():
    rate = pm.Normal("rate", 0.0, 1.0)
    x = pytensor.scan(lambda r: r * 0.5 + 0.1 * pt.tanh(r), outputs_info=[rate], n_steps=20, return_updates=False)
    pm.Normal("y", x, 1.0, observed=NORMAL)


def _gp_marginal():
    length = pm.Gamma("length", 2.0, 2.0)
    gp = pm.gp.Marginal(cov_func=pm.HalfNormal("eta", 1.0) ** 2 * pm.gp.cov.ExpQuad(1, ls=length))
    gp.marginal_likelihood("y", X=GRID[:, None], y=NORMAL[:18], sigma=_sigma())


def _gp_latent():
    length = pm.Gamma("length", 2.0, 2.0)
    f = pm.gp.Latent(cov_func=pm.gp.cov.Matern52(1, ls=length)).prior("f", X=GRID[:, None])
    pm.Normal("y", f, 1.0, observed=NORMAL[:18])


def _gp_hsgp():
    length = pm.Gamma("length", 2.0, 2.0)
    f = pm.gp.HSGP(m=[6], c=1.5, cov_func=pm.gp.cov.ExpQuad(1, ls=length)).prior("f", X=GRID[:, None])
    pm.Normal("y", f, 1.0, observed=NORMAL[:18])


def _potential():
    x = pm.Normal("x", 0.0, 1.0, shape=3)
    pm.Potential("soft", -(x**2).sum())
    pm.Potential("rows", -0.1 * (x[0] - NORMAL) ** 2)


def _custom_logp():
    x = pm.Normal("x", 0.0, 1.0)
    pm.CustomDist("y", x, logp=lambda value, x: -((value - x) ** 2), observed=NORMAL)


def _custom_dist():
    x = pm.Normal("x", 0.0, 1.0)
    pm.CustomDist("y", x, dist=lambda x, size: pm.math.exp(pm.Normal.dist(x, 1.0, size=size)), observed=POSITIVE)


def _imputed():
    values = NORMAL.copy()
    values[[2, 5, 9]] = np.nan
    x = pm.Normal("x", 0.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pm.Normal("y", x + 0.1 * POSITIVE, 1.0, observed=values)


def _imputed_counts_positive():
    values = POSITIVE.copy()
    values[3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pm.Gamma("y", 1.0 + _sigma(), 2.0, observed=values)


def _index():
    a = pm.Normal("a", 0.0, 1.0, shape=4)
    pm.Normal("y", a[COUNTS % 4], 1.0, observed=NORMAL)


def _mask():
    a = pm.Normal("a", 0.0, 1.0, shape=20)
    pm.Normal("y", a[NORMAL > 0], 1.0, observed=NORMAL[NORMAL > 0])


def _switch():
    when = pm.Uniform("when", 0.0, 20.0)
    mu = pm.math.switch(np.arange(20) > when, pm.Normal("early", 0.0, 1.0), pm.Normal("late", 0.0, 1.0))
    pm.Normal("y", mu, 1.0, observed=NORMAL)


def _linear_algebra():
    b = pm.HalfNormal("b", 1.0, shape=3)
    matrix = pt.diag(1.0 + b) + 0.1
    values, vectors = pt.linalg.eigh(matrix)
    pm.Potential("slogdet", pt.linalg.slogdet(matrix)[1])
    pm.Potential("solve", pt.linalg.solve(matrix, np.ones(3)))
    pm.Potential("inverse", pt.linalg.inv(matrix).sum() + pt.linalg.expm(-matrix).sum())
    pm.Potential("eigen", (values * vectors[0] ** 2).sum())


def _large_constants():
    """Covariates, indices and matrices large enough to become inputs."""
    design, group = DESIGN, COUNTS % 3
    beta = pm.Normal("beta", 0.0, 1.0, shape=4)
    a = pm.Normal("a", 0.0, _sigma(), shape=3)
    rate = pm.math.exp(pm.math.dot(design, beta) + a[group])
    pm.Poisson("y", rate, observed=COUNTS)
    pm.MvNormal("w", mu=np.zeros(6), cov=np.eye(6) + 0.1 * RING, observed=DESIGN[:18].reshape(-1, 6)[:4])


def _containers():
    design, target = pm.Data("design", DESIGN[:, :2]), pm.Data("target", NORMAL)
    group, trials = pm.Data("group", COUNTS % 3), pm.Data("trials", 25)
    beta, a = pm.Normal("beta", 0.0, 1.0, shape=2), pm.Normal("a", 0.0, 1.0, shape=3)
    mu = design @ beta + a[group]
    pm.Normal("y", mu, _sigma(), observed=target)
    pm.Binomial("k", n=trials, p=pm.math.invlogit(mu), observed=COUNTS)


FEATURES = {
    "interval by hand": _interval_by_hand,
    "Dirichlet": _dirichlet,
    "StickBreakingWeights": _stick_breaking,
    "ZeroSumNormal": _zero_sum,
    "LKJCholeskyCov": _lkj_cholesky,
    "LKJCorr": _lkj_corr,
    "MvNormal latent": _mvnormal_latent,
    "MvStudentT latent": _mvstudent_latent,
    "CAR": _car,
    "ICAR": _icar,
    "WishartBartlett": _wishart_bartlett,
    "NormalMixture latent": _mixture_latent,
    "GaussianRandomWalk": _random_walk,
    "MvGaussianRandomWalk": _multivariate_walk,
    "AR(2) latent": _ar2,
    "EulerMaruyama": _euler_maruyama,
    "scan": _scan,
    "gp.Marginal": _gp_marginal,
    "gp.Latent": _gp_latent,
    "gp.HSGP": _gp_hsgp,
    "Potential": _potential,
    "CustomDist by logp": _custom_logp,
    "CustomDist by dist": _custom_dist,
    "imputed": _imputed,
    "imputed positive": _imputed_counts_positive,
    "index": _index,
    "mask": _mask,
    "switch": _switch,
    "linear algebra": _linear_algebra,
    "large constants": _large_constants,
    "data containers": _containers,
}
CASES = PRIORS | OBSERVED | FEATURES
SLOW = {
    *("OrderedProbit", "Mixture", "LKJCorr", "SkewNormal", "WishartBartlett", "LogitNormal", "MvGaussianRandomWalk"),
    *("Interpolated", "Censored StudentT", "MatrixNormal", "BetaBinomial", "PERT-like Beta by mean", "AR(2) latent"),
    *("ZeroInflatedBinomial", "ZeroInflatedNegativeBinomial", "HurdleGamma", "Truncated StudentT", "Truncated Gamma"),
    *("MvNormal tau", "DirichletMultinomial", "HyperGeometric", "ExGaussian", "Triangular", "Censored Normal"),
    *("GARCH11", "Rice", "VonMises", "EulerMaruyama", "gp.Marginal", "TruncatedNormal", "chain of transforms"),
}


def _build(case):
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CASES[case]()
    return model


def _reference(case, free):
    """PyMC's factors, the Jacobian added to those of constrained sites; literals in full precision, as in jensen."""
    integers = mock.patch.object(pytensor.scalar.basic, "autocast_int", NumpyAutocaster(("int64",)))
    with (
        pytensor.config.change_flags(mode="FAST_COMPILE"),
        warnings.catch_warnings(),
        autocast_float_as("float64"),
        integers,
    ):
        warnings.simplefilter("ignore")
        model = _build(case)
        function = pytensor.function(
            model.value_vars, model.logp(sum=False), mode=FAST_COMPILE, on_unused_input="ignore"
        )
        values = function(*(np.asarray(free[rv.name]) for rv in model.free_RVs))
    names = [rv.name for rv in [*model.free_RVs, *model.observed_RVs, *model.potentials]]
    return dict(zip(names, values, strict=True))


@pytest.mark.parametrize("case", quick(CASES, *(case for case in CASES if case not in SLOW)))
def test_factors_gradient_and_batch(case):
    rng = np.random.default_rng(3)
    record = read(_build(case))
    sites, step = record.sites, 1e-5
    z, direction = rng.normal(size=(2, dim(sites))) * 0.5

    def everything(z, data):
        factors = record.factors(unflatten(sites, z), data)
        return total(factors), factors

    with scope("float64"):
        points = jnp.asarray([z, z + step * direction, z - step * direction])
        batched = jax.jit(jax.vmap(jax.value_and_grad(everything, has_aux=True), in_axes=(0, None)))
        traced = batched.trace(points, record.data)
        results = traced.lower().compile(compiler_options=QUICKLY)(points, record.data)
        (value, factors), gradient = jax.tree.map(np.asarray, results)
    assert "f32[" not in str(traced.jaxpr)

    expected = _reference(case, {name: value[0] for name, value in unflatten(sites, z[None]).items()})
    assert set(factors.log_prob) == set(expected)
    # PyMC itself builds the matrix of this one in float32; SciPy agrees with jensen.
    tolerance = 1e-7 if case == "WishartBartlett" else 1e-10
    for name, reference in expected.items():
        found = factors.log_prob[name][0] + factors.jacobian.get(name, np.zeros(3))[0]
        assert found.shape == reference.shape, name
        np.testing.assert_allclose(found, reference, rtol=tolerance, atol=tolerance, err_msg=name)

    assert value.shape == (3,)
    assert gradient.shape == (3, dim(sites))
    slope = (value[1] - value[2]) / (2 * step)
    np.testing.assert_allclose(gradient[0] @ direction, slope, rtol=1e-5, atol=1e-5 * np.abs(value[0]))
