"""Checkpoints through `jensen.fit`: a fit that dies and is called again ends as the one that never did.

``python -m tests.test_fit_checkpoint CHECKPOINT RESULT [NAME]`` is a fit in a process of its own, there to be killed.
"""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.scipy.stats as jst
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from tests.tiers import quick

import jensen as jn
from jensen import checkpoint
from jensen.checkpoint import Checkpoint

D = 3


def _data(rows):
    rng = np.random.default_rng(rows)
    X = rng.standard_normal((rows, D))
    return {"X": X, "y": (rng.random(rows) < 1 / (1 + np.exp(-X @ [1.0, -0.5, 0.3]))).astype(float)}


def log_prior(p):
    return jst.norm.logpdf(p["b"], 0, 2).sum()


def wider_prior(p):
    return jst.norm.logpdf(p["b"], 0, 3).sum()


def log_rows(p, data):
    eta = data["X"] @ p["b"]
    return data["y"] * eta - jax.nn.softplus(eta)


def _density(rows, prior=log_prior):
    return jn.density(prior, {"b": np.zeros(D)}, log_likelihood=log_rows, data=_data(rows))


FEW, MANY = _density(1500), _density(30_000)


def conjugate(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([D]).to_event(1))
    t = numpyro.sample("t", dist.Gamma(2.0, 2.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, t**-0.5), obs=y)


def few(**options):
    return jn.fit(FEW, progress=False, **options)


def anchored(**options):
    return jn.fit(MANY, progress=False, **options)


def batches(**options):
    return jn.fit(FEW, "advi", batch_size=100, progress=False, **options)


def iterates(**options):
    tracker = jn.Tracker(mean=lambda s: s.q.mean)
    engine = jn.Gradient(optimizer=ADAM, batch_size=100)
    posterior = jn.fit(FEW, engine=engine, steps=1000, callbacks=[tracker], correct=False, progress=False, **options)
    return posterior, tracker["mean"]


ADAM = optax.adam(optax.exponential_decay(0.05, 200, 0.5))


def _conjugate_data():
    data = _data(200)
    return {"X": data["X"], "y": data["X"] @ [1.0, 2.0, 3.0] + data["y"]}


def cavi(**options):
    return jn.fit(conjugate, "cavi", data=_conjugate_data(), progress=False, **options)


FITS = {fit.__name__: fit for fit in (few, anchored, batches, iterates)}


def outcome(fit, **options):
    """What must not depend on deaths."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*do not use", category=jn.FitWarning)
        found = fit(**options)
    posterior, more = found if isinstance(found, tuple) else (found, np.zeros(0))
    parts = {f"draws of {name}": value for name, value in posterior.draws(50).items()}
    return parts | {
        "loss": posterior.history["loss"],
        "elbo": np.array([posterior.elbo.value, posterior.elbo.error]),
        "verdict": np.array([str(posterior.verdict), *posterior.verdict.words]),
        "run": np.array([posterior.run.status, str(posterior.run.steps), *posterior.run.notes]),
        "summary": posterior.summary().select_dtypes("number").to_numpy(),
        "callback": more,
    }


def same(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


class Died(BaseException):
    """No cleanup catches it."""


@pytest.fixture
def often(monkeypatch):
    """A write after every chunk."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", np.inf)


@pytest.mark.parametrize("name", quick(["few", "anchored", "batches", "iterates"], "anchored", "batches"))
def test_a_fit_that_dies_and_is_called_again(name, tmp_path, monkeypatch, often):
    fit, real, writes, deaths = FITS[name], Checkpoint._write, [], 0
    deaths_at = [1, 3, 6, 10]
    expected = outcome(fit)

    def dying(self):
        real(self)
        writes.append(1)
        if len(writes) in deaths_at:
            raise Died

    monkeypatch.setattr(Checkpoint, "_write", dying)
    found = None
    while found is None:
        try:
            found = outcome(fit, checkpoint=tmp_path / "c")
        except Died:
            deaths += 1
    assert deaths == sum(at <= len(writes) for at in deaths_at) >= 1
    same(found, expected)
    count = len(writes)
    same(outcome(fit, checkpoint=tmp_path / "c"), expected)
    assert len(writes) == count  # there was nothing left to do


@pytest.mark.slow
def test_many_dimensions_in_batches(tmp_path):
    """Their warm-up looks at another subsample than the checks do."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((4000, 60))
    data = {"X": X, "y": (rng.random(4000) < 0.5).astype(float)}
    model = jn.density(log_prior, {"b": np.zeros(60)}, log_likelihood=log_rows, data=data)

    def fit(**options):
        return jn.fit(model, "advi", batch_size=500, steps=100, correct=False, progress=False, **options)

    expected = outcome(fit, checkpoint=tmp_path / "c")
    same(outcome(fit, checkpoint=tmp_path / "c"), expected)


def test_coordinate_ascent_is_the_same_twice_and_after_a_death(tmp_path, monkeypatch, often):
    expected, real = outcome(cavi), Checkpoint._write

    def dying(self):
        real(self)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "_write", dying)
        with pytest.raises(Died):
            outcome(cavi, checkpoint=tmp_path / "c")
    same(outcome(cavi, checkpoint=tmp_path / "c"), expected)
    same(outcome(cavi), expected)


def start(tmp_path, name, worker=("tests.test_fit_checkpoint",)):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    arguments = [str(tmp_path / f"{name}.checkpoint"), str(tmp_path / f"{name}.npz")]
    command = [sys.executable, "-m", *worker, *arguments]
    root = Path(__file__).parents[1]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root, env=environment)
    process.stdout.readline()
    return process


def test_kills_at_random_moments(tmp_path):
    rng, kills = np.random.default_rng(), 0
    for _ in range(2):
        process = start(tmp_path, "shaken")
        try:
            process.communicate(timeout=rng.uniform(0.2, 1.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    last = start(tmp_path, "shaken")
    _, errors = last.communicate()
    assert (last.returncode, errors) == (0, b""), errors.decode()
    assert kills >= 1
    same(dict(np.load(tmp_path / "shaken.npz")), outcome(batches))


@pytest.mark.slow
def test_kills_at_random_moments_of_a_fit_with_groups(tmp_path):
    rng, worker, kills = np.random.default_rng(), ("tests.crash_worker", "groups"), 0
    for _ in range(4):
        process = start(tmp_path, "shaken", worker)
        try:
            process.communicate(timeout=rng.uniform(1.0, 6.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    for name in ("shaken", "calm"):
        last = start(tmp_path, name, worker)
        _, errors = last.communicate()
        assert (last.returncode, errors) == (0, b""), errors.decode()
    assert kills >= 1
    same(dict(np.load(tmp_path / "shaken.npz")), dict(np.load(tmp_path / "calm.npz")))


def test_ctrl_c_keeps_the_fit_and_a_second_call_goes_on(tmp_path, often):
    expected = outcome(batches)

    def stop(snapshot):
        if snapshot.step >= 150:
            raise KeyboardInterrupt  # a real signal may arrive where Python swallows it

    with pytest.warns(jn.FitWarning, match="interrupted"):
        short = batches(checkpoint=tmp_path / "c", callbacks=[stop])
    assert short.run.status == "interrupted"
    assert 150 <= short.run.steps == len(short.history["loss"]) < len(expected["loss"])
    assert any("Ctrl-C" in note for note in short.run.notes)
    same(outcome(batches, checkpoint=tmp_path / "c"), expected)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A checkpoint of `few`, and what came of it."""
    path = tmp_path_factory.mktemp("there") / "c"
    return path, outcome(few, checkpoint=path)


CHANGED = {
    "prior": (
        lambda **o: jn.fit(_density(1500, wider_prior), progress=False, **o),
        r"(log density|model) was .* and is now",
    ),
    "seed": (lambda **o: few(seed=1, **o), r"seed was 0 and is now 1"),
    "data": (lambda **o: few(data={"y": 1 - _data(1500)["y"]}, **o), r"data y was .* and is now"),
    "method": (lambda **o: few(method="meanfield", **o), r"was .*'auto'.* and is now .*'meanfield'"),
    "batches": (batches, r"was .*'auto'.* and is now .*'advi'"),
    "precision": (lambda **o: few(precision="float32", **o), r"precision was float64 and is now float32"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_another_fit_is_refused(what, there):
    fit, words = CHANGED[what]
    before = there[0].read_bytes()
    with pytest.raises(
        jn.OptionError, match=rf"is the checkpoint of another fit: .*{words}.*delete the file"
    ) as caught:
        fit(checkpoint=there[0])
    assert "\n" not in str(caught.value)
    assert there[0].read_bytes() == before


def test_the_size_of_batches_is_part_of_the_fit(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        batches(checkpoint=tmp_path / "c", steps=1, correct=False)
    with pytest.raises(jn.OptionError, match="batch_size=100.*batch_size=200"):
        jn.fit(FEW, "advi", batch_size=200, checkpoint=tmp_path / "c", progress=False)


def test_half_a_file_costs_a_warning(there, tmp_path):
    path = tmp_path / "c"
    path.write_bytes(there[0].read_bytes()[:-500])
    with pytest.warns(jn.FitWarning, match="is damaged .* starts anew"):
        found = outcome(few, checkpoint=path)
    same(found, there[1])
    path.with_name("c.previous").write_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(jn.FitWarning, match="is damaged .* the checkpoint before it, c.previous, serves"):
        found = outcome(few, checkpoint=path)
    same(found, there[1])


def test_nowhere_to_write(tmp_path):
    with pytest.raises(jn.FileError, match="is a folder.*file name inside it"):
        few(checkpoint=tmp_path)
    with pytest.raises(jn.FileError, match="does not exist.*make the folder first"):
        few(checkpoint=tmp_path / "none" / "c")


def main(path, result, name="batches"):
    print("running", flush=True)
    checkpoint.INTERVAL, checkpoint.SHARE = 0.0, np.inf
    part = Path(result).with_suffix(".part.npz")
    np.savez(part, **outcome(FITS[name], checkpoint=path))
    os.replace(part, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
