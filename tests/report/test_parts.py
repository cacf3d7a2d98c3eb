"""The parts of a page: escaped elements, panels, the plate diagram, and the numbers in them."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from jensen.core.html import badge, element, table
from jensen.models.read import read
from jensen.report import marginals, pairs
from jensen.report.boxes import Box, arranged, boxes
from jensen.report.diagram import diagram
from jensen.report.svg import Panel, round_ticks


def test_elements_escape_what_is_no_html():
    made = element("p", "<b>", element("i", "&"), None, 3, class_="a", data_word='"', hidden=True, id=None)
    assert made == '<p class="a" data-word="&quot;" hidden>&lt;b&gt;<i>&amp;</i>3</p>'
    assert badge("neither of them") == "neither of them"
    assert "trusted" in badge("trusted")
    assert '<th scope="row">x &lt; 1</th>' in table(("", "n"), [("x < 1", 2)])


@pytest.mark.parametrize("limits", [(0, 1), (-0.013, 0.0171), (1e6, 1.3e6), (-3, 1e-9), (17.2, 17.9)])
def test_ticks_are_round_few_and_inside(limits):
    ticks = round_ticks(*limits)
    assert 2 <= len(ticks) <= 13
    assert limits[0] - 1e-12 <= ticks[0] <= ticks[-1] <= limits[1] + 1e-12
    step = float(f"{ticks[1] - ticks[0]:.6e}"[:1])
    assert step in (1, 2, 5)
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_ticks_of_whole_numbers():
    np.testing.assert_array_equal(round_ticks(-0.6, 1.6, least=1), [0, 1])


def test_a_panel_puts_points_where_they_belong_and_leaves_out_what_is_not_finite():
    panel = Panel((0, 10), (0, 1), size=(220, 160))
    x, y = panel.at([0, 10], [0, 1])
    assert (x[0], x[1]) == (10, 210)
    assert y[0] > y[1]
    panel.points([5, np.nan, 1], [0.5, 0.5, np.inf], "ours")
    panel.line([0, 5, 10], [0, np.nan, 1], "ours")
    text = panel.html()
    assert text.count("a1.8") == 2  # two arcs, one dot
    assert "nan" not in text
    assert "inf" not in text


def test_a_density_is_that_of_the_draws():
    rng = np.random.default_rng(0)
    x, grid = rng.exponential(size=20_000), np.linspace(0, 12, 400)
    y = marginals.density(x, np.full(len(x), 1 / len(x)), grid, (0.0, np.inf))
    assert np.trapezoid(y, grid) == pytest.approx(1, abs=0.02)
    assert np.abs(y - np.exp(-grid))[20:].max() < 0.06
    weighted = marginals.density(
        x[:4000], stats.expon.pdf(x[:4000]) / stats.expon.pdf(x[:4000]).sum(), grid, (0, np.inf)
    )
    assert np.trapezoid(weighted * grid, grid) == pytest.approx(0.5, abs=0.05)  # an exponential of rate 2
    assert np.isnan(marginals.density(np.ones(50), np.full(50, 0.02), grid, (0.0, np.inf))).all()


def facts(x: np.ndarray):
    return SimpleNamespace(
        posterior=SimpleNamespace(model=SimpleNamespace(sites=("x",))),
        starts=np.array([0, x.shape[1]]),
        column=lambda row: x[:, row],
    )


def test_the_largest_correlations_are_numpys():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 40))
    x[:, 7] += 2 * x[:, 3]
    x[:, 20] -= x[:, 11]
    x[:, 30], x[:, 31] = x[:, 5], 1.0  # the same quantity twice, and a constant
    found, looked, total = pairs.largest(facts(x))
    assert (looked, total) == (39, 40)
    assert [pair[:2] for pair in found] == [(3, 7), (11, 20)]
    for i, j, correlation in found:
        assert correlation == pytest.approx(np.corrcoef(x[:, i], x[:, j])[0, 1])


def test_of_very_many_scalars_some_are_looked_at():
    x = np.random.default_rng(0).normal(size=(300, 4000))
    x[:, -1] = x[:, 0] + 0.1 * x[:, -1]
    found, looked, total = pairs.largest(facts(x))
    assert looked < total == 4000
    assert found[0][:2] == (0, 3999)


def mixture(x, K):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(pi))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
    numpyro.factor("pull", -(mu.sum() ** 2))


def test_boxes_know_their_parents_and_plates():
    found = {box.name: box for box in boxes(read(mixture, {"x": np.arange(6.0), "K": 2}), "float64")}
    assert found["x"] == Box("x", "Normal", "observed", ("rows (6)",), ("mu", "z"))
    assert found["z"] == Box("z", "Categorical", "latent", ("rows (6)",), ("pi",))
    assert found["mu"].plates == ("components (2)",)
    assert found["pi"].plates == ()
    assert (found["pull"].kind, found["pull"].parents) == ("factor", ("mu",))


CROSSED = (
    Box("a", "Normal", "latent", (), ()),
    Box("b", "Normal", "latent", ("rows (3)",), ("a",)),
    Box("c", "Normal", "latent", ("columns (4)",), ("a",)),
    Box("d", "Normal", "observed", ("rows (3)", "columns (4)"), ("b", "c")),
    Box("e", "Gamma", "latent", (), ()),
    Box("f", "Poisson", "observed", ("times (9)",), ("e", "a")),
    Box("<g>", "factor", "factor", (), ("e",)),
)


def test_parents_are_above_and_plates_hold_nothing_else():
    places = arranged(CROSSED)
    for box in CROSSED:
        assert all(places[parent][1] < places[box.name][1] for parent in box.parents)
    assert len(set(places.values())) == len(CROSSED)
    for plate in {plate for box in CROSSED for plate in box.plates}:
        inside = [places[box.name] for box in CROSSED if plate in box.plates]
        (left, right), (top, bottom) = ((min(axis), max(axis)) for axis in zip(*inside, strict=True))
        for box in CROSSED:
            column, rank = places[box.name]
            assert plate in box.plates or not (left - 0.9 < column < right + 0.9 and top <= rank <= bottom)


def test_the_diagram_draws_every_box_arrow_and_plate():
    drawn = diagram(CROSSED)
    assert drawn.count('class="arrow"') == sum(len(box.parents) for box in CROSSED)
    assert drawn.count('class="plate"') == 3
    assert "&lt;g&gt; depends on e" in drawn


def test_two_chains_that_read_each_other_have_places():
    loop = (Box("u", "Normal", "latent", (), ("v",)), Box("v", "Normal", "latent", (), ("u",)))
    assert arranged(loop) == {"u": (0.0, 0), "v": (0.0, 1)}
    assert "v depends on u" in diagram(loop)
