"""The figure of weights under successive removals."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks import gif_figure
from tests.benchmarks.weight_paths import WeightPaths, weight_paths


def test_weight_paths():
    path = np.arange(14.0).reshape(7, 2)
    axis = np.linspace(0, 14, 5)
    panels = [WeightPaths(t, axis, axis, np.ones((5, 5)), {"GIF": path, "FIF": -path}, 3, (4.0, 5.0)) for t in "ab"]
    figure = weight_paths(panels, loss="error")
    assert [t.text for t in figure.layout.annotations] == ["a", "b"]
    assert "error" in figure.layout.title.text
    for axes, other in (("x", None), ("x2", "y2")):
        traces = [t for t in figure.data if t.xaxis == axes]
        assert other is None or {t.yaxis for t in traces} == {other}
        lines = {t.name: t for t in traces if t.type == "scatter" and t.mode == "lines"}
        marks = {t.name: t for t in traces if t.type == "scatter" and t.mode != "lines"}
        np.testing.assert_array_equal(lines["FIF"].x, -path[:, 0])
        np.testing.assert_array_equal(lines["FIF"].y, -path[:, 1])
        np.testing.assert_array_equal(marks["GIF"].x, path[[3, 6], 0])
        assert (marks["start"].x[0], marks["start"].y[0]) == (0, 1)
        assert (marks["least loss"].x[0], marks["least loss"].y[0]) == (4, 5)
        assert lines["GIF"].line.color == marks["GIF"].marker.color != lines["FIF"].line.color
    assert [t.name for t in figure.data if t.showlegend] == ["GIF", "FIF", "start", "least loss"]
    assert "weight 1" in figure.layout.xaxis2.title.text
    assert "weight 2" in figure.layout.yaxis.title.text


@pytest.mark.parametrize("seed", [0, 2])
def test_the_paths_of_the_benchmark(seed):
    for panel in gif_figure.panels(seed):
        ends = {name: found[-1] for name, found in panel.paths.items()}
        far = np.linalg.norm(panel.paths["FIF"][0] - panel.optimum)
        assert np.linalg.norm(ends["FIF"] - panel.optimum) < 1e-8 * far
        assert np.linalg.norm(ends["GIF"] - panel.optimum) > 0.2 * far
        assert np.linalg.norm(ends["PIF"] - panel.optimum) > 0.2 * far
        assert len(panel.paths["FIF"]) == {50: 201, 10: 41}[panel.every]
        best = np.unravel_index(panel.loss.argmin(), panel.loss.shape)
        nearest = np.array([panel.x[best[1]], panel.y[best[0]]])
        assert np.abs(nearest - panel.optimum).max() < 0.15 * far
