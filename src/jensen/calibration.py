"""`jensen.calibrate`: simulation-based calibration of a method on a model.

    theta_i ~ prior,   y_i ~ p(y | theta_i),   q_i = fit(y_i),      i = 1..n

If q_i were the posterior, theta_i would be one more draw of it: its rank u_i = Q_i(theta_i) among the draws is uniform, and its
score z_i = (theta_i - mean_i) / sd_i has mean 0 and mean square 1, exactly, whatever the posterior's shape. So for each scalar

    shift     mean of z                         means too low (+) or too high (-), in the sds that were claimed
    spread    sd of z                           true over claimed sd: above 1, sds are too small
    p         three tests on the ranks, of s = Phi^-1(u): n mean(s)^2 ~ chi^2_1, sum s^2 ~ chi^2_n, and Kolmogorov-Smirnov;
              three times the smallest, then Holm's correction for the number of scalars

Refits have data of one shape, which are arguments of the compiled program: only the first one compiles. Where a Gaussian alone
is judged ("fullrank" or "meanfield" with ``correct=False``), all data sets are fitted at once (engines/together.py), and those
that do not arrive there one by one. The answer is about data that the prior makes, on average over them: it says nothing about
data that the prior would not make.

References: Talts, Betancourt, Simpson, Vehtari, Gelman (2018), Validating Bayesian inference algorithms with simulation-based
calibration, arXiv:1804.06788; Yao, Vehtari, Simpson, Gelman (2018), Yes, but did it work?, ICML; Sailynoja, Burkner, Vehtari
(2022), Graphical test for discrete uniformity, Stat. Comput. 32 (bands).
"""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import FitWarning, JensenError, OptionError
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.diagnostics import quantities
from jensen.diagnostics.examine_many import fit_many, row
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.verdict import DO_NOT_USE, TRUSTED
from jensen.export.table import render
from jensen.families.fullrank import FullRank
from jensen.families.meanfield import MeanField
from jensen.fitting import fit
from jensen.models.many import Many
from jensen.models.model import Model
from jensen.models.read import read
from jensen.models.simulate import like, simulate

SHOWN = 10
_LEVEL = 0.05
_LEAST = 20
_FINEST = 1e-3
"""Ranks nearer to 0 or 1 are not told apart: draws of chains are worth hundreds, and no more of them is known."""
_LARGEST = 100
"""Dimensions up to which all data sets are fitted at once."""
_DRAWN = 8
"""Quantities of the figure with a color and a name."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What n refits of simulated data say about a method; made by `calibrate`.

    Attributes
    ----------
    names
        Of the K scalars.
    ranks
        (n, K), share of the posterior below the true value; uniform if calibrated.
    z
        (n, K), (truth - mean) / sd.
    trusted
        (n, K), whether the verdict said so.
    method
        What was tried.
    failures
        What the refits that failed said; they are in none of the numbers.
    seconds
        Of all refits at once where that was possible; else of the first, and the median of the others.
    """

    names: tuple[str, ...]
    ranks: np.ndarray = field(repr=False)
    z: np.ndarray = field(repr=False)
    trusted: np.ndarray = field(repr=False)
    method: str
    failures: tuple[str, ...]
    seconds: tuple[float, ...]

    @cached_property
    def _numbers(self) -> dict[str, np.ndarray]:
        from scipy import stats

        n = len(self.z)
        shift, spread = self.z.mean(0), self.z.std(0, ddof=1)
        standard = (self.z - shift) / np.where(spread > 0, spread, 1.0)
        kurtosis = np.maximum((standard**4).mean(0), 1.0)
        scores = stats.norm.ppf(np.clip(self.ranks, _FINEST, 1 - _FINEST))
        location = 2 * stats.norm.sf(np.abs(scores.mean(0)) * np.sqrt(n))
        squares = stats.chi2.cdf((scores**2).sum(0), n)
        shape = np.array([stats.kstest(column, "uniform").pvalue for column in self.ranks.T])
        p = np.minimum(3 * np.minimum.reduce([location, 2 * np.minimum(squares, 1 - squares), shape]), 1.0)
        return {
            "shift": shift,
            "shift error": spread / np.sqrt(n),
            "spread": spread,
            "spread error": spread * np.sqrt((kurtosis - 1) / (4 * n)),
            "p": p,
            "p adjusted": _holm(p),
            "trusted": self.trusted.mean(0),
        }

    @property
    def table(self) -> Any:
        """Data frame, one row a scalar: shift and spread with errors, p, p adjusted for the number of rows, share trusted."""
        import pandas as pd

        return pd.DataFrame(self._numbers, index=list(self.names))

    @property
    def calibrated(self) -> bool:
        """Whether no scalar is miscalibrated at the 5% level, all of them together."""
        return bool((self._numbers["p adjusted"] >= _LEVEL).all())

    @property
    def sentence(self) -> str:
        """What was found."""
        found, n = self._numbers, len(self.z)
        fits = f"{n} fits of simulated data by {self.method}"
        if self.calibrated:
            seen = 100 * 3 / np.sqrt(2 * n)
            return f"{fits}: no sign of miscalibration (sds wrong by {seen:.0f}% would show)."
        bad = np.flatnonzero(found["p adjusted"] < _LEVEL)
        worst = bad[np.argmin(found["p"][bad])]
        parts = []
        off = 1 / found["spread"] - 1
        if abs(found["spread"][worst] - 1) > 2 * found["spread error"][worst]:
            error = 100 * found["spread error"][worst] / found["spread"][worst] ** 2
            which = "small" if off[worst] < 0 else "large"
            parts.append(f"sds too {which} by {abs(100 * off[worst]):.0f}% (+- {error:.0f}%)")
        if abs(found["shift"][worst]) > 2 * found["shift error"][worst]:
            which = "low" if found["shift"][worst] > 0 else "high"
            size, error = abs(found["shift"][worst]), found["shift error"][worst]
            parts.append(f"means too {which} by {size:.2f} (+- {error:.2f}) sd")
        how = " and ".join(parts) or "ranks are not uniform"
        return f"{fits}: {len(bad)} of {len(self.names)} quantities miscalibrated; {self.names[worst]}: {how}."

    def plot(self) -> Any:
        """One matplotlib figure: distribution of the ranks minus the uniform one, with a simultaneous 95% band."""
        from matplotlib.figure import Figure

        figure = Figure((6.5, 4), layout="constrained")
        axes = figure.subplots()
        at = np.linspace(0, 1, 101)
        low, high = _band(len(self.ranks), at)
        axes.fill_between(at, low - at, high - at, color="0.88", step="mid", label="95% band of one quantity")
        order = np.argsort(self._numbers["p"], kind="stable")
        for place in order[::-1]:
            share = (self.ranks[:, place, None] <= at).mean(0) - at
            rank = int(np.flatnonzero(order == place)[0])
            style: dict[str, Any] = {"color": "0.6", "linewidth": 0.6}
            if rank < _DRAWN:
                style = {"color": f"C{rank}", "linewidth": 1.3, "label": self.names[place], "zorder": 3}
            axes.plot(at, share, drawstyle="steps-mid", **style)
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set(xlabel="rank of the true value", ylabel="share of ranks below, minus uniform", xlim=(0, 1))
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small"
        )
        axes.spines[["top", "right"]].set_visible(False)
        return figure

    def __repr__(self) -> str:
        found = self._numbers
        rows = np.argsort(found["p"], kind="stable")[:SHOWN]
        columns = {
            "means off by (sds)": _with_errors(-found["shift"], found["shift error"], rows),
            "true / claimed sds": _with_errors(found["spread"], found["spread error"], rows),
            "p adjusted": found["p adjusted"][rows],
            "trusted": [f"{100 * share:.0f}%" for share in found["trusted"][rows]],
        }
        lines = [render([self.names[row] for row in rows], columns)]
        if len(rows) < len(self.names):
            lines.append(f"... ({len(self.names) - len(rows)} more; calibration.table has all)")
        lines += ["", self.sentence]
        if len(self.seconds) == 1:
            lines.append(f"{self.seconds[0]:.1f} s for all fits at once.")
        else:
            lines.append(f"{self.seconds[0]:.1f} s for the first fit, {self.seconds[1]:.2f} s for each of the others.")
        if self.failures:
            lines.append(f"{len(self.failures)} fits failed and are left out; the first said: {self.failures[0]}")
        return "\n".join(lines)


def calibrate(
    model: Any,
    method: str = "auto",
    *,
    data: Mapping[str, Any] | None = None,
    n: int = 200,
    seed: int = 0,
    simulate: Callable[[np.random.Generator], tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
    **options: Any,
) -> Calibration:
    """Simulation-based calibration of a method on a model: fit data simulated from the prior, and see where the truth lies.

    Parameters
    ----------
    model
        As for `jensen.fit`.
    method
        As for `jensen.fit`; further `options` are passed on to it.
    data
        As for `jensen.fit`. Observed values only say which shapes the simulated ones have.
    n
        Number of refits; sds wrong by about ``3 / sqrt(2 n)`` are seen.
    seed
        Randomness.
    simulate
        For models that cannot be simulated from: a function of a NumPy generator that returns parameters (site -> value in the
        model's own space) and data (name -> array, of what changes).

    Returns
    -------
    Calibration
        With ``table``, ``ranks``, ``plot()``, and a printed form.

    Raises
    ------
    OptionError
        For fewer than 20 refits, or parameters and data that are not the model's.
    UnsupportedError
        When the model cannot be simulated from.
    JensenError
        When no refit succeeds.
    """
    if isinstance(n, bool) or not isinstance(n, Integral) or n < _LEAST:
        raise OptionError(
            f"n must be a whole number, at least {_LEAST}; got {n!r}; 200 refits show errors of 15% in sds."
        )
    keys.check_seed(seed)
    precision = options.get("precision", "float64")
    record = read(model, data, precision)
    with scope(precision):
        truth, arrays = _drawn(record, int(n), seed, simulate)
    seconds, failures = [], []
    error: JensenError | None = None
    begun = time.perf_counter()
    at_once = _at_once(record, method, options)
    placed = _together(record, method, truth, arrays, seed, precision) if at_once else {}
    times: tuple[float, ...] = (time.perf_counter() - begun,)
    for number in range(n):
        if number in placed:
            continue
        begun = time.perf_counter()
        simulated = replace(record, data={**record.data, **{name: value[number] for name, value in arrays.items()}})
        rng = keys.generator(seed, "calibrate", number)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)
                found = fit(simulated, method, seed=int(rng.integers(2**31)), **{"progress": False, **options})
        except OptionError:
            raise
        except JensenError as failed:
            error, failures = failed, [*failures, str(failed)]
            continue
        seconds.append(time.perf_counter() - begun)
        words = dict(zip(found.verdict.names, found.verdict.words, strict=True))
        placed[number] = _placed(record, found.kept, found.weights, words, row(truth, number), rng)
    if error is not None and len(placed) < _LEAST:
        raise type(error)(
            f"{len(failures)} of {n} fits of simulated data failed; the last one said: {error}"
        ) from error
    ranks, z, trusted = (
        np.array(column) for column in zip(*(placed[number] for number in sorted(placed)), strict=True)
    )
    names = quantities.names(_only(record, truth))
    if not at_once:
        times = (seconds[0], float(np.median(seconds[1:])))
    return Calibration(tuple(names), ranks, z, trusted, method, tuple(failures), times)


def _drawn(record: Model, n: int, seed: int, given: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters and data of all refits."""
    if given is None:
        return simulate(record, n, seed)
    pairs = [given(keys.generator(seed, "prior", number)) for number in range(n)]
    if not all(
        isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(p, Mapping) for p in pair) for pair in pairs
    ):
        raise OptionError("simulate must return two dicts, parameters and data.")
    shapes = {site.name: site.shape for site in (*record.sites, *record.derived)}
    missing = [site.name for site in record.sites if any(site.name not in pair[0] for pair in pairs)]
    unknown = sorted({name for pair in pairs for name in pair[1] if name not in record.data})
    if missing or unknown or not all(pair[1] for pair in pairs):
        raise OptionError(
            f"simulate must return all parameters ({', '.join(site.name for site in record.sites)}) and some of the data "
            f"({', '.join(record.data) or 'none'}); missing are {missing}, and not in the data are {unknown}."
        )
    truth = {
        name: np.array([np.asarray(pair[0][name], float) for pair in pairs]) for name in pairs[0][0] if name in shapes
    }
    for name, value in truth.items():
        if value.shape[1:] != shapes[name]:
            raise OptionError(f"simulated {name} has shape {value.shape[1:]}, and the site has {shapes[name]}.")
    arrays = {name: np.array([np.asarray(pair[1][name]) for pair in pairs]) for name in pairs[0][1]}
    return truth, {name: like(record.data[name], value, name) for name, value in arrays.items()}


def _only(record: Model, truth: Mapping[str, Any]) -> Model:
    """The record with those deterministics whose true values are known."""
    return replace(record, derived=tuple(some for some in record.derived if some.name in truth))


def _at_once(record: Model, method: str, options: Mapping[str, Any]) -> bool:
    """Whether all refits are Gaussians of a moderate size, and nothing but q is asked for."""
    plain = options.get("correct") is False and set(options) <= {"correct", "precision", "progress"}
    return plain and method in ("fullrank", "meanfield") and record.dim <= _LARGEST and not record.many_rows


def _together(
    record: Model,
    method: str,
    truth: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
    seed: int,
    precision: str,
) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ranks, scores z and trust by number, of all fits that arrive when they are fitted at once."""
    family = FullRank() if method == "fullrank" else MeanField()
    with scope(precision), one_blas_thread():
        found = fit_many(Many(record, arrays, precision), family, seed)
    placed: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for place, number in enumerate(map(int, found.rows)):
        words = dict.fromkeys(quantities.names(record), TRUSTED if found.constant[place] else DO_NOT_USE)
        values, derived = row(found.values, place), row(found.derived, place)
        n = len(next(iter(values.values())))
        kept = Draws(np.zeros((n, 0)), np.zeros(n), values, derived)
        rng = keys.generator(seed, "calibrate", number)
        placed[number] = _placed(record, kept, np.full(n, 1 / n), words, row(truth, number), rng)
    return placed


def _placed(
    record: Model,
    kept: Draws,
    weights: np.ndarray,
    words: Mapping[str, str],
    truth: Mapping[str, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks, scores z and trust of the true values (K,)."""
    known = _only(record, truth)
    x = quantities.matrix(known, kept.values, kept.derived)
    alone = {name: np.asarray(value)[None] for name, value in truth.items()}
    t = quantities.matrix(known, alone, alone)[0]
    found = quantities.moments(x, weights)
    mean, sd = found["mean"], found["sd"]
    ranks = weights @ (x < t) + rng.uniform(size=len(t)) * (weights @ (x == t))
    constant = (sd == 0) & (t == mean)
    z = np.where(constant, rng.standard_normal(len(t)), (t - mean) / np.where(sd > 0, sd, 1.0))
    return ranks, z, np.array([words.get(name) == TRUSTED for name in quantities.names(known)])


def _holm(p: np.ndarray) -> np.ndarray:
    """P-values of K tests, adjusted for all of them."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(p)
    result[order] = np.minimum(adjusted, 1.0)
    return result


def _band(n: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the distribution of n uniform ranks stays, at all places at once, with probability 95%; by simulation."""
    from scipy.stats import binom

    inner = at[1:-1]
    counts = (np.random.default_rng(0).uniform(size=(1000, n, 1)) <= inner).sum(1)
    tails = np.minimum(binom.cdf(counts, n, inner), binom.sf(counts - 1, n, inner))
    level = np.quantile(tails.min(1), _LEVEL)
    return binom.ppf(level, n, at) / n, binom.isf(level, n, at) / n


def _with_errors(values: np.ndarray, errors: np.ndarray, rows: np.ndarray) -> list[str]:
    return [f"{values[row]:.2f} +- {errors[row]:.2f}" for row in rows]
