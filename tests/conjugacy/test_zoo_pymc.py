"""The PyMC twins have the log joint of the NumPyro models."""

import numpy as np
import pytest

pytest.importorskip("pymc")

from tests.conjugacy import zoo_pymc
from tests.conjugacy.hand import HAND
from tests.conjugacy.zoo import example

from jensen.core.precision import scope


def _point(name: str) -> dict[str, np.ndarray]:
    """A legal value of every site: the means of the hand derivation's q after two sweeps."""
    record = example(name)
    hand = HAND["inverse_gamma" if name == "half_normal" else name]
    state = hand.start(record.arguments, np.random.default_rng(0))
    state = hand.sweep(hand.sweep(state, record.arguments), record.arguments)
    if name == "half_normal":
        state["sigma"] = state.pop("v")
    values = {}
    for site, q in state.items():
        if "probs" in q:
            values[site] = q["probs"].argmax(-1)
        elif "rate" in q:
            values[site] = q["concentration"] / q["rate"]
        elif "a" in q:
            values[site] = np.asarray(q["a"] / (q["a"] + q["b"]))
        elif "concentration" in q:
            values[site] = q["concentration"] / q["concentration"].sum(-1, keepdims=True)
        else:
            values[site] = q["mean"]
    return values


@pytest.mark.parametrize("name", zoo_pymc.MODELS)
def test_log_joint_is_that_of_the_numpyro_model(name):
    from numpyro.infer.util import log_density
    from pymc.model.transform.conditioning import remove_value_transforms

    record, values = example(name), _point(name)
    with scope("float64"):
        expected = float(log_density(record.model, (), record.arguments, values)[0])
    model = remove_value_transforms(zoo_pymc.build(name))
    point = {variable: values[variable.name].astype(variable.dtype) for variable in model.value_vars}
    assert {variable.name for variable in point} == set(record.sites)
    assert float(model.logp().eval(point, mode="FAST_COMPILE")) == pytest.approx(expected, rel=1e-9)
