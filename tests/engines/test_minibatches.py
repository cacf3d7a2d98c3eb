"""Minibatches: every epoch sums to the whole, and fits by batches end where fits to all rows do."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from tests.tiers import quick

import jensen as jn
from jensen.core import records
from jensen.core.precision import scope
from jensen.data.build import table
from jensen.engines import gradient
from jensen.engines.gradient import Gradient
from jensen.models import minibatch, plates
from jensen.models.large import LargeTarget
from jensen.models.minibatch import Batches
from jensen.models.model import total
from jensen.models.read import read
from jensen.models.target import Target
from jensen.models.weighted import WEIGHTS
from jensen.run import run

N, D = 3001, 3


def _model(X, y):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("N", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, s), obs=y)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D))
    X = X[np.argsort(X[:, 0])]  # the first rows stand for nothing
    return {"X": X, "y": X @ [1.0, -1.0, 0.5] + 0.7 * rng.standard_normal(N)}


@pytest.fixture(scope="module")
def record(data):
    return read(_model, data)


def _target(record, seed=0):
    plate = plates.find(record)[0]
    return LargeTarget(record, plate, table(**{name: record.data[name] for name, _ in plate.data}), seed=seed)


def _density(batches, record, part, step, z):
    block = {name: value[part.index[step, 0]] for name, value in part.blocks[0].items()}
    free = {"b": z[:D], "s": z[D]}
    return float(total(batches.factors(free, {**batches.rest, **block})))


@pytest.mark.parametrize("size", quick([1, 7, 500, 2999, N], 1, 500, 2999, N))
def test_the_mean_over_an_epoch_is_the_whole_whatever_the_size(size, record, data):
    with scope():
        target = _target(record)
        batches = minibatch.batches(target, size)
        z = np.array([0.3, 0.1, -0.2, 0.4])
        whole = float(Target(record)(z[None])[0][0])
        assert batches.size <= size
        assert batches.epoch == -(-N // size)
        if size == 1:
            return
        for epoch in (0, 1):
            values, step = [], epoch * batches.epoch
            while len(values) < batches.epoch:
                part = batches.part(3, step, batches.epoch - len(values))
                values += [_density(batches, record, part, i, z) for i in range(part.count)]
                step += part.count
            np.testing.assert_allclose(np.mean(values), whole, rtol=1e-10)
        prior, slope = batches.prior(z)
        scaled = [dist.Normal(0, 2).log_prob(z[:D]).sum(), dist.HalfNormal(1.0).log_prob(np.exp(z[D])), z[D]]
        np.testing.assert_allclose(prior, float(sum(scaled)), rtol=1e-10)
        np.testing.assert_allclose(slope[:D], -z[:D] / 4, rtol=1e-10)


def test_every_row_is_in_one_block_and_orders_change(record):
    with scope():
        batches = minibatch.batches(_target(record), 500)
        part = batches.part(0, 0, 7)
        weights = np.asarray(part.blocks[0][WEIGHTS])
        assert weights.sum() == pytest.approx(N * batches.epoch)
        rows = np.asarray(part.blocks[0]["y"])[weights > 0]
        np.testing.assert_array_equal(np.sort(rows), np.sort(record.data["y"]))
        assert sorted(part.index[:, 0]) == list(range(7))
        orders = [tuple(batches.part(0, 7 * e, 7).index[:, 0]) for e in range(4)]
        assert len(set(orders)) > 1
        # Steps have their batches wherever a chunk begins.
        long, late = batches.part(0, 0, 20), batches.part(0, 5, 15)
        np.testing.assert_array_equal(long.index[5:], late.index)
        again = minibatch.batches(_target(record), 500).part(0, 3, 4)
        np.testing.assert_array_equal(again.blocks[0]["y"], part.blocks[0]["y"])
        cycle = 7 * 100  # rows are permuted anew
        assert not np.array_equal(np.asarray(batches.part(0, cycle, 1).blocks[0]["y"]), rows)


def test_streamed_batches_are_the_same_from_anywhere(record, monkeypatch):
    monkeypatch.setattr(minibatch, "RESIDENT", 0)
    with scope():
        plate = plates.find(record)[0]
        rows = table(**{name: record.data[name] for name, _ in plate.data})
        batches = Batches(record, plate, rows, 400)
        assert (batches.epoch, batches.size) == (7, 400)
        z = np.array([0.3, 0.1, -0.2, 0.4])
        first = batches.part(1, 0, 5)
        then = batches.part(1, 5, 5)
        assert (first.count, then.count) == (5, 2)
        fresh = Batches(record, plate, rows, 400).part(1, 4, 5)
        np.testing.assert_array_equal(first.blocks[0]["X"][4], fresh.blocks[0]["X"][0])
        np.testing.assert_array_equal(then.blocks[0]["X"][0], fresh.blocks[0]["X"][1])
        # Unbiased over epochs: the rows left out are others every time.
        whole = float(Target(record)(z[None])[0][0])
        values = []
        for step in range(0, 7 * 30, 7):
            part = batches.part(1, step, 7)
            values += [_density(batches, record, part, i, z) for i in range(7)]
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values) - whole) < 4 * error


@pytest.mark.parametrize("family", [jn.MeanField(), jn.FullRank()], ids=["mean-field", "full rank"])
def test_defaults_end_at_the_optimum_of_all_rows(family, record):
    with scope():
        target = _target(record)
        q, done = run(Gradient(family, batch_size=100), target, seed=0, progress=False)
        best, _ = run(jn.FixedDraws(family), Target(record), seed=1, progress=False)
    assert done.status == "converged"
    assert np.abs((q.mean - best.mean) / best.sd).max() < 0.05
    np.testing.assert_allclose(q.sd, best.sd, rtol=0.03)


def test_streams_end_there_too(record, monkeypatch):
    monkeypatch.setattr(minibatch, "RESIDENT", 0)
    with scope():
        q, done = run(Gradient(batch_size=100), _target(record), seed=0, progress=False)
        best, _ = run(jn.FixedDraws(jn.MeanField()), Target(record), seed=1, progress=False)
    assert done.status == "converged"
    assert np.abs((q.mean - best.mean) / best.sd).max() < 0.05


def test_an_optimizer_on_batches(record):
    adam = optax.adam(optax.exponential_decay(0.05, 1000, 0.1))
    with scope():
        q, _ = run(
            Gradient(optimizer=adam, batch_size=100, steps=3000, average=True), _target(record), seed=0, progress=False
        )
        best, _ = run(jn.FixedDraws(jn.MeanField()), Target(record), seed=1, progress=False)
    assert np.abs((q.mean - best.mean) / best.sd).max() < 0.5
    np.testing.assert_allclose(q.sd, best.sd, rtol=0.2)


@pytest.mark.parametrize("streamed", [False, True])
def test_another_process_goes_on_bit_for_bit(streamed, record, monkeypatch):
    if streamed:
        monkeypatch.setattr(minibatch, "RESIDENT", 0)
    engine, ends = Gradient(batch_size=300, steps=170), []
    for chunk, stored in ((50, False), (13, True)):
        monkeypatch.setattr(gradient, "CHUNK", chunk)
        with scope():
            target = _target(record)
            state, done = engine.init(target, 3), False
            while not done:
                state, ticks = engine.advance(state, target)
                done = ticks.done
                if stored:
                    state, target = records.decode(*records.encode(state)), _target(record)
        ends.append(records.encode(state))
    assert str(ends[0][0]) == str(ends[1][0])
    for a, b in zip(ends[0][1], ends[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [0, N + 1, 2.5, True])
def test_sizes_that_are_none(size, record):
    with scope(), pytest.raises(jn.OptionError, match="batch_size"):
        Gradient(batch_size=size).init(_target(record), 0)


def test_latent_variables_by_row_are_refused():
    def model(y):
        with numpyro.plate("N", y.shape[0]):
            t = numpyro.sample("t", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(t, 1.0), obs=y)

    with scope():
        some = read(model, {"y": np.arange(40.0)})
        plate = plates.find(some)[0]
        with pytest.raises(jn.UnsupportedError, match="site t has a value for every row"):
            Batches(some, plate, table(y=some.data["y"]), 10)


def test_float32_rows_are_computed_in_float32(data):
    small = {name: value.astype(np.float32) for name, value in data.items()}
    with scope():
        record = read(_model, small)
        target = _target(record)
        assert minibatch.working_precision({"y": small["y"], WEIGHTS: np.ones(3)}) == jnp.float32
        q, done = run(Gradient(batch_size=100), target, seed=0, progress=False)
        best, _ = run(jn.FixedDraws(jn.MeanField()), Target(read(_model, data)), seed=1, progress=False)
    assert done.status == "converged"
    assert np.abs((q.mean - best.mean) / best.sd).max() < 0.05
