"""The way of a fit on contours, against the geometry that it must show."""

import numpy as np
import pytest

import jensen as jn
from jensen.core.errors import OptionError

P = np.array([[2.0, 1.6], [1.6, 2.0]])
MEAN = np.array([1.0, -0.5])


def log_density(z):
    away = z - MEAN
    return -0.5 * np.einsum("ni,ij,nj->n", away, P, away)


def test_corners_contours_and_ellipse():
    from matplotlib import pyplot as plt

    points = np.array([[-2.0, 2.5], [-1.4, 1.42], MEAN])
    figure = jn.plots.path(log_density, points, cov=1 / np.diag(P), names=("a", "b"))
    (axes,) = figure.axes
    way = np.asarray(axes.lines[0].get_xydata())
    np.testing.assert_array_equal(way[::2], points)
    assert ((np.diff(way, axis=0) != 0).sum(1) == 1).all()  # one axis at a time
    np.testing.assert_array_equal(way[1], [points[1, 0], points[0, 1]])
    (ellipse,) = axes.patches
    np.testing.assert_allclose(ellipse.center, MEAN)
    np.testing.assert_allclose([ellipse.width, ellipse.height], 2 * np.sqrt(0.5 * 4.605170185988092))
    assert axes.get_xlabel() == "a"
    # The dark contour holds 90% of the Gaussian: its farthest point along a is sqrt(4.605 cov_aa) from the mean.
    dark = np.concatenate([path.vertices for path in axes.collections[1].get_paths()])
    np.testing.assert_allclose(np.abs(dark[:, 0] - MEAN[0]).max(), np.sqrt(4.605 * np.linalg.inv(P)[0, 0]), rtol=0.02)
    straight = jn.plots.path(log_density, points, corners=False)
    np.testing.assert_array_equal(straight.axes[0].lines[0].get_xydata(), points)
    plt.close(figure)
    plt.close(straight)


@pytest.mark.parametrize(
    ("points", "cov", "word"),
    [
        (np.zeros((3, 3)), None, "steps, 2"),
        (np.full((2, 2), np.nan), None, "finite"),
        (np.zeros((2, 2)), [-1, 1], "eigenvalue"),
    ],
)
def test_refusals(points, cov, word):
    with pytest.raises(OptionError, match=word):
        jn.plots.path(log_density, points, cov=cov)
