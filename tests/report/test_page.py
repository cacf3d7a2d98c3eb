"""The page about a fit: parsed with the standard library, it is complete, true to the posterior, and alone."""

import html.parser
import json
import re
import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jensen as jn
from jensen.core.layout import Site
from jensen.diagnostics.ladder import Rung
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.verdict import Verdict
from jensen.families.meanfield import DiagonalGaussian
from jensen.families.particles import Particles
from jensen.models.model import Model
from jensen.objectives.elbo import Elbo
from jensen.posterior import Posterior
from jensen.report.page import SECTIONS, page
from jensen.run import Run
from jensen.settings import Cost, Settings

ODD = "2 < a & b"
RNG = np.random.default_rng(0)
X = RNG.normal(size=30)
DATA = {"x": X, "y": 1 + 2 * X + 0.5 * RNG.normal(size=30)}


def line(x, y):
    a = numpyro.sample("a", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.HalfNormal(5))
    numpyro.deterministic(ODD, 2 * a)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(1 + a * x, s), obs=y)


class Page(html.parser.HTMLParser):
    """What a browser would see: identifiers, links, headings, tables as lists of rows, and text by section."""

    VOID = ("meta", "link", "input", "br", "wbr")

    def __init__(self, content: str):
        super().__init__()
        self.content, self.ids, self.links, self.open, self.tables = content, [], [], [], []
        self.text, self.section, self.headless, self.unnamed, self.data = {}, "", 0, 0, ""
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src", "xlink:href", "action", "srcset") if name in given]
        if tag not in self.VOID:
            self.open.append((tag, given))
        if tag == "section":
            self.section = given["id"]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.headless += tag == "th" and "scope" not in given
        if tag == "svg" and "role" in given:
            self.unnamed += 1
        if tag == "title" and len(self.open) > 1 and self.open[-2][0] == "svg":
            self.unnamed -= 1

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, f"{tag} is closed in the wrong place"
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        inside = [tag for tag, _ in self.open]
        if "script" in inside and self.open[-1][1].get("id") == "rows":
            self.data += data
        if {"td", "th"} & set(inside) and self.tables:
            self.tables[-1][-1][-1] += data
        if not {"script", "style"} & set(inside):
            self.text[self.section] = self.text.get(self.section, "") + data

    def table(self, first: str) -> list[list[str]]:
        """The rows below the heading of the first table whose first heading is so."""
        return next(rows[1:] for rows in self.tables if rows[0][0] == first)


def read(posterior, against=None) -> Page:
    found = Page(page(posterior, against))
    assert len(found.ids) == len(set(found.ids))
    assert {anchor for anchor, _, _ in SECTIONS} | {"verdict"} <= set(found.ids)
    assert found.headless == found.unnamed == 0
    foreign = [link for link in found.links if not (link.startswith("#") or link.startswith("data:"))]
    assert not foreign
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert not re.search(r"https?:|//\w|@import|url\(", found.content.replace("// ", ""))
    assert "NaN" not in found.content
    return found


@pytest.fixture(scope="module")
def fitted():
    return jn.fit(line, "meanfield", data=DATA, correct=False)


@pytest.fixture(scope="module")
def looked(fitted):
    return read(fitted)


def test_every_quantity_has_its_row_and_its_word(fitted, looked):
    summary, rows = fitted.summary(), looked.table("quantity")
    assert [row[0] for row in rows] == list(summary.index)
    assert [row[1].split(" ", 1)[1] for row in rows] == list(summary["verdict"])
    shown = np.array([[float(cell) for cell in row[2:]] for row in rows])
    np.testing.assert_allclose(shown, summary.drop(columns="verdict"), atol=0.006 * summary["sd"].max())


def test_the_verdict_comes_first_in_words(fitted, looked):
    assert list(looked.text)[:3] == ["", "verdict", "model"]
    words = looked.text["verdict"]
    assert fitted.verdict.overall in words
    assert fitted.verdict.advice in words
    assert all(reason in words for reason in fitted.verdict.reasons)


def test_the_model_as_it_was_understood(looked):
    rows = looked.table("variable")
    assert ["a", "inferred", "Normal", "scalar", "real"] in rows
    assert ["s", "inferred", "HalfNormal", "scalar", "positive"] in rows
    assert [ODD, "computed", "", "scalar", ""] in rows
    assert looked.table("observed") == [["y", "Normal", "30", "rows"]]
    assert looked.table("other data") == [["x", "30", "float64"]]
    assert "y depends on a, s" in looked.text["model"]
    assert [row[:2] for row in looked.table("site")] == [["a", "✓ exact"], ["s", "~ free"]]


def test_what_it_cost_and_how_to_get_it_again(fitted, looked):
    assert f"{fitted.cost.gradients:,}" in looked.text["cost"]
    assert 'jn.fit(line, "meanfield", data={"x": ..., "y": ...}, seed=0, correct=False)' in looked.text["again"]
    assert all(word in looked.text["again"] for word in (f"jensen {jn.__version__}", "jax ", "numpyro "))


def test_the_predictive_check_is_about_the_observed_values(looked):
    rows = {row[0]: row for row in looked.table("y")}
    assert float(rows["largest"][1]) == pytest.approx(DATA["y"].max(), rel=0.01)
    low, high = (float(number) for number in rows["sd"][3].split(" to "))
    assert low < DATA["y"].std() < high
    assert rows["sd"][4] == "inside"


def test_names_are_escaped(looked):
    assert "2 < a" not in looked.content
    assert "2 &lt; a &amp; b" in looked.content


def test_beside_another_fit(fitted):
    moved = replace(fitted.kept, values={**fitted.kept.values, "a": fitted.kept.values["a"] + 1})
    found = read(fitted, fitted.replace(kept=moved))
    assert "This fit agrees with the other meanfield in 2 of 3 quantities" in found.text["marginals"]
    assert found.table("")[0][0] == "a"


def test_q_and_the_chains_are_shown_where_they_are_not_the_answer(fitted):
    about = replace(fitted.verdict, about="the corrected answer")
    found = read(fitted.replace(answer="corrected", verdict=about))
    assert "q, the approximation alone" in found.text["marginals"]
    assert found.content.count('class="line second"') == 1 + 3


def test_a_fit_from_a_file_says_what_it_cannot_show(fitted, tmp_path):
    fitted.save(tmp_path / "fit.nc", draws=50)
    loaded = jn.load(tmp_path / "fit.nc")
    loaded.report(tmp_path / "fit.html")
    found = read(loaded)
    assert (tmp_path / "fit.html").read_text(encoding="utf-8") == found.content
    for section in ("model", "predictive"):
        assert "a fit from a file" in found.text[section]
    assert found.table("quantity") == read(fitted).table("quantity")


def test_a_fit_that_went_wrong(fitted):
    n = len(fitted.weights)
    broken = replace(fitted.kept, values={"a": np.full(n, np.nan), "s": np.ones(n)})
    words = replace(fitted.verdict, words=("do not use",) * 3, reasons=("the fit was interrupted",), advice="Go on.")
    run = replace(fitted.run, history={"elbo": np.array([-np.inf, np.nan]), "loss": np.zeros(2)}, status="interrupted")
    found = read(fitted.replace(kept=broken, verdict=words, run=run, elbo=Elbo(-np.inf, np.inf)))
    assert "Neither means nor intervals of this fit can be used." in found.text["verdict"]
    assert "no step was finite" in found.text["steps"]
    assert "is constant, or nothing in it is finite" in found.text["marginals"]


def test_particles_have_no_elbo(fitted):
    points = Particles(np.asarray(fitted.q.sample(np.random.default_rng(0), 50)))
    run = replace(fitted.run, history={"loss": np.arange(3.0), "elbo": np.full(3, np.nan)})
    found = read(fitted.replace(q=points, run=run, elbo=Elbo(np.nan, np.nan)))
    assert "There is no ELBO" in found.text["steps"]
    assert "Particles" in found.text["again"]


def test_a_climb_shows_its_rungs(fitted):
    rungs = (
        Rung("Gaussian", Elbo(8.43, 0.02), 1.0, True, "10 do not use", 344_672),
        Rung("flow", Elbo(10.26, 0.01), 0.027, False, "", 260_224),
        Rung("lost", Elbo(-np.inf, 0.0), np.inf, False, "", 1),
    )
    run = replace(fitted.run, rungs=rungs)
    found = read(fitted.replace(run=run, story=("2 steps", *map(str, rungs))))
    shown = [row[1:3] for row in found.table("")]
    assert shown == [["Gaussian", "8.43 ± 0.02"], ["flow", "10.26 ± 0.01"], ["lost", "-inf ± 0.00"]]
    assert "10 do not use" in found.text["steps"]
    assert "2 steps" in found.text["steps"]
    assert found.text["steps"].count("flow") == 1  # in the table, and not told again


def big(sizes: dict[str, int], n: int = 200) -> Posterior:
    """A posterior of independent Gaussians, as it comes from a file."""
    total = sum(sizes.values())
    z = np.random.default_rng(1).normal(size=(n, total)) * np.geomspace(1e-3, 1e3, total)
    sites, values, start = [], {}, 0
    for name, size in sizes.items():
        shape = (size // 4, 4)
        sites.append(Site(name, shape, shape, dims=("unit", "kind")))
        values[name] = z[:, start : start + size].reshape(n, *shape)
        start += size

    def absent(*_):
        raise AssertionError

    coords = {"kind": ("low", 'quoted "one"', "<b>", "last")}
    model = Model("big", "NumPyro", tuple(sites), {}, absent, absent, absent, coords=coords)
    names = tuple(name for site in sites for name in jn.core.layout.scalar_names(site, coords))
    words = np.full(total, "trusted", object)
    words[5], words[-1] = "do not use", "means only"
    verdict = Verdict(names, tuple(words), {"moved (sds)": np.zeros(total)}, ("because",), "Use it.", np.zeros(1), "q")
    return Posterior(
        model=model,
        q=DiagonalGaussian(z.mean(0), z.std(0)),
        run=Run("converged", {"elbo": -1 / np.arange(1.0, 5000.0), "loss": np.zeros(4999)}, 4999, 1.0),
        verdict=verdict,
        elbo=Elbo(0.0, 0.1),
        answer="q",
        kept=Draws(z, np.zeros(n), values, {}),
        weights=np.full(n, 1 / n),
        settings=Settings("meanfield"),
        cost=Cost(10, 1.0),
    )


def test_fifty_thousand_quantities_fit_on_a_page_that_can_be_searched():
    posterior = big({"small": 8, "large": 49_992})
    found = read(posterior)
    assert len(found.content) < 3_000_000
    assert [row[1] for row in found.table("quantity")][:2] == ["✕ do not use", "~ means only"]
    assert len(found.table("quantity")) == 200
    assert found.table("variable")[0][:1] == ["small"]
    # As the page's script reads them: names from labels, verdicts from digits.
    known = json.loads(found.data)
    names, words = [], []
    for variable in known["variables"]:
        rows, columns = variable["labels"]
        names += [f"{variable['name']}[{row}, {column}]" for row in rows for column in columns]
        words += [known["words"][int(digit)] for digit in variable["words"]]
        assert {len(column.split(" ")) for column in variable["columns"]} == {len(variable["words"])}
    assert (tuple(names), tuple(words)) == (posterior.verdict.names, posterior.verdict.words)
    mean = np.array(known["variables"][1]["columns"][0].split(" "), float)
    np.testing.assert_allclose(mean, posterior.mean["large"].ravel(), atol=0.006 * posterior.sd["large"].max())


def test_refusals(fitted, tmp_path, monkeypatch):
    with pytest.raises(jn.FileError, match="make the folder first"):
        fitted.report(tmp_path / "none" / "fit.html")
    with pytest.raises(jn.OptionError, match="fit 2 is a int"):
        fitted.report(tmp_path / "fit.html", against=3)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(jn.OptionError, match=r"pip install 'jensen\[report\]'"):
        fitted.report(tmp_path / "fit.html")
    assert not list(tmp_path.iterdir())


def test_notebooks_show_the_same(fitted):
    for thing in (fitted, fitted.verdict, jn.conjugacy(line, data=DATA), jn.compare(fitted, fitted)):
        found = Page(thing._repr_html_())
        assert not found.links
        assert found.headless == 0
        assert found.content.startswith('<div class="jensen">')
    short = Page(fitted._repr_html_())
    assert [row[0] for row in short.table("")] == ["a", "s", ODD]
    assert fitted.verdict.advice in short.text[""]
    assert "2 < a" not in short.content


def test_observations_outside_of_a_plate_are_simulated_one_by_one():
    def trial(y):
        m = numpyro.sample("m", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(m, 1), obs=y)

    record = jn.models.read.read(trial, {"y": jnp.arange(5.0)})
    drawn = record.predict({"m": np.zeros(2000)}, dict(record.data), 0)["y"]
    assert drawn.shape == (2000, 5)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), np.eye(5), atol=0.15)
