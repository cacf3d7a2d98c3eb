"""What the figures show: lines, histograms and moving shapes hold the numbers that they are drawn from."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from matplotlib.patches import Ellipse
from PIL import Image

import jensen as jn
from jensen.core.errors import DataError, OptionError
from jensen.diagnostics.ladder import Rung
from jensen.objectives.elbo import Elbo
from jensen.plots import plane

particles = import_module("jensen.plots.particles")  # the package's name of it is the function

MEAN, COV = np.array([1.0, -2.0]), np.array([[1.0, 0.6], [0.6, 2.0]])
PRECISION = np.linalg.inv(COV)
MODEL = jn.density(
    lambda p: -0.5 * (p["x"] - MEAN) @ PRECISION @ (p["x"] - MEAN),
    {"x": [0.0, 0.0]},
    dims={"x": ("side",)},
    coords={"side": ["left", "right"]},
)


@pytest.fixture(scope="module")
def fits():
    """The Gaussian from two starts, with records."""
    tracks, posterior = [], None
    for start in ([4.0, 3.0], [-5.0, 0.0]):
        track = jn.Tracker(mean=lambda s: s.q.mean, cov=lambda s: s.q.cov)
        posterior = jn.fit(MODEL, "fullrank", start={"x": start}, callbacks=[track], correct=False, progress=False)
        tracks.append(track)
    return posterior, tracks


def arviz_object(x, side=("left", "right")):
    import arviz as az

    return az.from_dict({"x": x}, coords={"side": list(side)}, dims={"x": ["side"]})


def frames_of(animation, path):
    animation.save(path, writer="pillow")
    with Image.open(path) as picture:
        return picture.format, picture.n_frames


def test_elbo_is_that_of_the_steps_and_of_fresh_draws(fits):
    posterior, _ = fits
    axes = jn.plots.elbo(posterior).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), posterior.history["elbo"])
    assert set(axes.lines[1].get_ydata()) == {posterior.elbo.value}
    # Up to the constant that the density leaves out, the evidence of a Gaussian: log sqrt(det(2 pi cov)).
    assert posterior.elbo.value == pytest.approx(0.5 * np.linalg.slogdet(2 * np.pi * COV)[1], abs=1e-6)
    assert axes.get_ylim()[0] < posterior.elbo.value < axes.get_ylim()[1]


def test_rungs_stand_at_the_right_and_say_which_were_kept(fits, tmp_path):
    posterior, _ = fits
    rungs = (
        Rung("Gaussian", Elbo(-3.0, 0.1), 1.0, True, "2 trusted", 10),
        Rung("scale layer", Elbo(-2.5, 0.1), 0.5, True, "2 trusted", 20),
        Rung("flow", Elbo(-9.0, 0.1), 0.5, False, "", 30),
        Rung("broken", Elbo(-np.inf, 0.0), np.inf, False, "", 0),
    )
    climbed = posterior.replace(run=replace(posterior.run, rungs=rungs))
    axes = jn.plots.elbo(climbed).axes[0]
    assert [text.get_text() for text in axes.texts] == ["Gaussian", "scale layer", "flow\n(not kept)"]
    assert axes.get_ylim()[0] < -9.2
    climbed.save(tmp_path / "fit.nc")
    assert jn.load(tmp_path / "fit.nc").run.rungs == rungs


def test_a_noisy_history_has_a_mean_drawn_through_it(fits):
    posterior, _ = fits
    noisy = np.random.default_rng(0).normal(-5.0, 3.0, 1000)
    run = replace(posterior.run, history={"elbo": noisy, "loss": -noisy})
    lines = jn.plots.elbo(posterior.replace(run=run)).axes[0].lines
    np.testing.assert_allclose(lines[1].get_ydata()[0], noisy[:20].mean())


@pytest.mark.slow
def test_marginals_lie_over_those_of_the_reference_by_label(fits):
    posterior, _ = fits
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(MEAN, COV, (2, 1000))
    turned = arviz_object(draws[..., ::-1], ("right", "left"))
    made = jn.plots.marginals(posterior, against=turned)
    assert [axes.get_xlabel() for axes in made.axes] == ["x[left]", "x[right]"]
    for k, axes in enumerate(made.axes):
        line = next(line for line in axes.lines if len(line.get_xdata()) > 100)
        grid, density = line.get_data()
        center = (grid * density).sum() / density.sum()
        assert center == pytest.approx(MEAN[k], abs=0.1)
        assert axes.patches[0].get_height() >= 0
        bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axes.patches]
        middle = sum(x * tall for x, tall in bars) / sum(tall for _, tall in bars)
        assert middle == pytest.approx(MEAN[k], abs=0.1)
    labels = [text.get_text() for text in made.legends[0].get_texts()]
    assert sorted(labels) == ["draws", "fullrank"]


def test_marginals_of_weighted_draws_of_counts_and_of_constants(fits):
    posterior, _ = fits
    first = np.zeros(len(posterior.weights))
    first[0] = 1.0  # all weight on one draw: every marginal is a line
    made = jn.plots.marginals(posterior.replace(weights=first))
    assert {line.get_xdata()[0] for line in made.axes[0].lines[:1]} == {posterior.kept.values["x"][0, 0]}
    counts = np.random.default_rng(0).poisson(2.0, (1, 500, 2))
    heights = [bar.get_height() for bar in jn.plots.marginals(arviz_object(counts)).axes[0].patches]
    np.testing.assert_allclose(heights, np.bincount(counts[0, :, 0]) / 500)


def test_what_marginals_refuse(fits):
    posterior, _ = fits
    import arviz as az

    with pytest.raises(OptionError, match="variables there are x"):
        jn.plots.marginals(posterior, var_names=["y"])
    with pytest.raises(DataError, match="rename"):
        jn.plots.marginals(posterior, against=az.from_dict({"y": np.zeros((1, 10))}))
    with pytest.raises(DataError, match="one model"):
        jn.plots.marginals(posterior, against=az.from_dict({"x": np.zeros((1, 10, 3))}))
    with pytest.raises(OptionError, match="fit 2 is a dict"):
        jn.plots.marginals(posterior, against={})


def test_blobs_begin_apart_and_end_at_one_place(fits, tmp_path):
    _, tracks = fits
    animation = jn.plots.blob(tracks, MODEL, frames=6)
    kind, count = frames_of(animation, tmp_path / "blob.gif")
    assert kind == "GIF"
    assert count >= 3  # those in which nothing moves are one
    axes = animation._fig.axes[0]
    ends = [ring for ring in axes.patches if isinstance(ring, Ellipse)]
    assert len(ends) == 4
    for ring, sds in zip(ends, (2.0, 1.0, 2.0, 1.0), strict=True):
        np.testing.assert_allclose(ring.get_center(), MEAN, atol=1e-3)
        np.testing.assert_allclose(
            sorted([ring.width, ring.height]), 2 * sds * np.linalg.eigvalsh(COV) ** 0.5, rtol=1e-3
        )
    assert axes.get_xlabel() == "x[left]"


@pytest.mark.parametrize(
    ("track", "word"),
    [({"mean": np.zeros((3, 2))}, "must have"), ({"mean": np.zeros((3, 1)), "cov": np.ones((3, 1, 1))}, "needs means")],
)
def test_blobs_of_something_else_are_refused(track, word):
    with pytest.raises(OptionError, match=word):
        jn.plots.blob(track, MODEL)


def test_contours_need_two_dimensions():
    one = jn.density(lambda p: -(p["x"] ** 2), {"x": 0.0})
    track = {"mean": np.zeros((3, 2)), "cov": np.stack([np.eye(2)] * 3)}
    with pytest.raises(OptionError, match="1 unconstrained dimensions"):
        jn.plots.blob(track, one)


def test_a_plane_holds_the_density():
    density = plane.of_two(MODEL)
    sd = np.diagonal(COV) ** 0.5
    grid = plane.plane(density, MEAN - 5 * sd, MEAN + 5 * sd)
    draws = grid.points(20000, np.random.default_rng(0))
    np.testing.assert_allclose(draws.mean(0), MEAN, atol=0.05)
    np.testing.assert_allclose(np.cov(draws.T), COV, atol=0.1)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_particles_end_where_they_were_fitted(dim, tmp_path, monkeypatch):
    monkeypatch.setattr(particles, "_HOLD", 0)
    rng = np.random.default_rng(0)
    track = {"points": [rng.normal(3 - k, 1.0, (50, dim)) for k in range(2)]}
    model = MODEL if dim == 2 else None
    animation = jn.plots.particles(track, model)
    kind, frames = frames_of(animation, tmp_path / "particles.gif")
    assert kind == "GIF"
    assert frames == 2
    drawn = animation._fig.axes[0].lines[-1].get_data()
    expected = track["points"][-1][:, 0] if dim == 1 else track["points"][-1][:, :2].T
    np.testing.assert_array_equal(drawn[0] if dim == 1 else np.stack(drawn), expected)


def test_particles_of_something_else_are_refused():
    with pytest.raises(OptionError, match="must have 'points'"):
        jn.plots.particles({}, MODEL)
    with pytest.raises(OptionError, match="at least one"):
        jn.plots.particles({"points": []}, MODEL)
    with pytest.raises(OptionError, match="have 3 dimensions"):
        jn.plots.particles({"points": [np.zeros((4, 3))]}, MODEL)
