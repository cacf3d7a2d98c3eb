"""What all of PyMC's approximations have: places in the flat vector, starts, moments by variable, draws, the verdict."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jensen.compat.pymc.arrays import Live, Parameter, live, seed_of
from jensen.core import keys
from jensen.core.errors import OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.export.arviz import datasets, wrap
from jensen.models.read import read
from jensen.models.target import Target
from jensen.settings import Settings

PRECISION = "float64"


class Approximation(ABC):
    """What all approximations have.

    Attributes
    ----------
    model
        The PyMC model.
    hist
        (steps,), the loss after every step.
    ordering
        Name of a variable's value -> (name, slice of the flat vector, shape, dtype).
    params, params_dict, shared_params
        The variational parameters, as a list and by name.
    mean, std, cov
        Moments on the unconstrained space, (D,), (D,) and (D, D).
    mean_data, std_data
        The same by variable, as xarray datasets.
    scale_cost_to_minibatch
        Whether losses and gradients are divided by rows over rows of a batch.
    seed
        All chance derives from it.
    """

    has_logq = True

    def __init__(self, model: Any, random_seed: Any, values: Callable[[np.ndarray], dict[str, np.ndarray]], start: Any):
        from jensen.models.pymc import _pymc_model

        self.record = read(model, None, PRECISION)
        if self.record.language != "PyMC":
            raise OptionError(f"the model must be a PyMC model; got {self.record.name}; jensen.fit takes the others.")
        self.model = _pymc_model(self.record.source)
        self.seed = seed_of(random_seed)
        self.hist, self.scale_cost_to_minibatch = np.zeros(0), True
        self.last: Any = None
        self._sampled, self._target = 0, None
        self.ordering = self._order()
        self.values = values(self._place(start))
        self.shared_params = {name: Parameter(self.values, name) for name in self.values}

    @property
    @abstractmethod
    def q(self) -> Any:
        """The approximation as jensen has it."""

    @abstractmethod
    def set_flat(self, flat: Any) -> None:
        """Set all parameters, from one vector."""

    @abstractmethod
    def set_q(self, q: Any) -> None:
        """Set all parameters to those of jensen's approximation."""

    @property
    def params(self) -> list[Parameter]:
        """The variational parameters."""
        return list(self.shared_params.values())

    @property
    def params_dict(self) -> dict[str, Parameter]:
        """The variational parameters by name."""
        return self.shared_params

    @property
    def ddim(self) -> int:
        """D."""
        return self.record.dim

    ndim = ddim

    @property
    def mean(self) -> Live:
        """Mean (D,)."""
        return live(lambda: self.q.mean)

    @property
    def std(self) -> Live:
        """Standard deviations (D,)."""
        return live(lambda: self.q.sd)

    @property
    def cov(self) -> Live:
        """Covariance (D, D)."""
        return live(lambda: self.q.cov)

    @property
    def mean_data(self) -> Any:
        """Mean by variable, unconstrained, as an xarray dataset."""
        return self._by_variable(self.q.mean)

    @property
    def std_data(self) -> Any:
        """Standard deviations by variable, unconstrained, as an xarray dataset."""
        return self._by_variable(self.q.sd)

    @property
    def target(self) -> Target:
        """The log density on all rows; inside `scope` only."""
        if self._target is None:
            self._target = Target(self.record, PRECISION)
        return self._target

    def sample(self, draws: int = 500, *, random_seed: Any = None, return_inferencedata: bool = True) -> Any:
        """Draws as InferenceData, one chain; or as PyMC's MultiTrace."""
        if random_seed is None:
            rng, self._sampled = keys.generator(self.seed, "sample", self._sampled), self._sampled + 1
        else:
            rng = keys.generator(seed_of(random_seed), "sample")
        z = np.asarray(self.q.sample(rng, draws))
        if not return_inferencedata:
            return self._trace(z)
        with scope(PRECISION):
            values, derived = self.target.constrain(z)
            groups = datasets(self.record, values, derived, log_p=np.zeros(draws))
        return wrap({name: group for name, group in groups.items() if name != "sample_stats"})

    def sample_node(
        self,
        node: Any,
        size: Any = None,
        deterministic: bool = False,
        more_replacements: Mapping[Any, Any] | None = None,
    ) -> Any:
        """PyTensor graph of a node of the model under q, as PyMC makes it, with the parameters of now."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twin = self._twin()
            for name, parameter in self.shared_params.items():
                twin.params_dict[name].set_value(parameter.get_value())
            return twin.sample_node(node, size, deterministic, more_replacements)

    @abstractmethod
    def _twin(self) -> Any:
        """PyMC's own approximation of the same model."""

    def posterior(self) -> Any:
        """The fit as a `jensen.Posterior`, judged.

        Raises
        ------
        UnsupportedError
            When nothing was fitted yet.
        """
        from jensen.posterior import conclude

        if self.last is None:
            raise UnsupportedError("posterior() needs a fit, and there was none; call fit() first.")
        settings = Settings("advi" if self.has_logq else "svgd", self.seed, PRECISION)
        with scope(PRECISION):
            return conclude(self.target, self.q, self.last.run, engine=self.last.engine, settings=settings)

    def _order(self) -> dict[str, tuple[str, slice, tuple[int, ...], str]]:
        ordering, begin = {}, 0
        names = {rv.name: self.model.rvs_to_values[rv].name for rv in self.model.free_RVs}
        for site in self.record.sites:
            name = names[site.name]
            ordering[name] = (name, slice(begin, begin + site.size), site.free_shape, PRECISION)
            begin += site.size
        return ordering

    def _place(self, start: Mapping[str, Any] | None) -> np.ndarray:
        """PyMC's initial point, or the user's, on the flat vector."""
        from pymc.initial_point import make_initial_point_fn

        self.check_names("start", start)
        overrides: Any = start
        point = make_initial_point_fn(model=self.model, overrides=overrides, jitter_rvs=set(), return_transformed=True)(
            0
        )
        return np.concatenate([np.ravel(point[name]).astype(float) for name in self.ordering])

    def sds(self, start_sigma: Mapping[str, Any] | None, sd: np.ndarray) -> np.ndarray:
        """Sds (D,) to start from: those given, and `sd` for the rest."""
        self.check_names("start_sigma", start_sigma)
        sd = sd.copy()
        for site, (name, where, shape, _) in zip(self.record.sites, self.ordering.values(), strict=True):
            given = (start_sigma or {}).get(name, (start_sigma or {}).get(site.name))
            if given is not None:
                sd[where] = np.broadcast_to(np.abs(np.asarray(given, float)), shape).ravel()
        return sd

    def check_names(self, what: str, given: Mapping[str, Any] | None) -> None:
        """Refuse names that are no variables of the model."""
        known = [*(site.name for site in self.record.sites), *self.ordering]
        unknown = sorted(set(given or ()) - set(known))
        if unknown:
            names = ", ".join(dict.fromkeys(known))
            raise OptionError(f"{what} names {unknown}, which are no variables of the model; there are {names}.")

    def _by_variable(self, flat: Any) -> Any:
        import xarray

        found = {}
        for site, (name, where, shape, _) in zip(self.record.sites, self.ordering.values(), strict=True):
            dims = site.dims if len(site.dims) == len(shape) and site.shape == shape else None
            coords = {dim: np.asarray(self.record.coords[dim]) for dim in dims or () if dim in self.record.coords}
            found[name] = xarray.DataArray(np.asarray(flat)[where].reshape(shape), coords, dims, name)
        return xarray.Dataset(found)

    def _trace(self, z: np.ndarray) -> Any:
        from pymc.backends.base import MultiTrace
        from pymc.backends.ndarray import NDArray

        points = [{name: row[where].reshape(shape) for name, where, shape, _ in self.ordering.values()} for row in z]
        trace = NDArray(model=self.model, test_point=points[0])
        trace.setup(draws=len(points), chain=0)
        for point in points:
            trace.record(point, in_warmup=False)
        trace.close()
        return MultiTrace([trace])

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}{value.shape}" for name, value in self.values.items())
        return f"{type(self).__name__}({shapes}; {len(self.hist)} steps)"
