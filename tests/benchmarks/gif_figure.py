"""Figure 2 of the paper on GIF as a Plotly figure: ``python -m tests.benchmarks.gif_figure --out figure.html``.

Linear regression with five inputs and a bias; 200 of 1000 targets are flipped and enlarged. These points are removed
one by one, or five at a time; after each removal GIF, FIF or PIF changes the first two weights, each from where its own
last step led. Steps are converged. FIF stays on the least loss throughout, as it must for a quadratic loss; in the
paper's figure it is GIF that does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from influence_core.curvature import Columns, solve_lsqr
from tests.benchmarks.weight_paths import WeightPaths, weight_paths

CHOSEN = torch.tensor([True, True, False, False, False, False])


def points(seed: int, size: int = 1000, wild: int = 200) -> tuple[Tensor, Tensor]:
    """Correlated inputs with a column of ones, and targets of which the first are wild."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, 5, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([2.0, 2.0, -5.0, 1.0, -3.0], dtype=torch.float64) + 1
    y += torch.randn(size, generator=generator, dtype=torch.float64)
    y[:wild] *= -5
    mixing = torch.rand(5, 5, generator=generator, dtype=torch.float64)
    return torch.cat([x @ mixing, torch.ones(size, 1, dtype=torch.float64)], 1), y


def path(method: str, x: Tensor, y: Tensor, start: Tensor, group: int, removals: int) -> np.ndarray:
    """The first two weights after each removal."""
    weights, seen = start.clone(), [start[:2]]
    for step in range(removals):
        gone, stays = slice(step * group, (step + 1) * group), slice((step + 1) * group, len(x))
        hessian = x[stays].T @ x[stays] / len(x[stays])
        gradient = x[gone].T @ (x[gone] @ weights - y[gone]) / group
        columns, rows = {
            "GIF": (CHOSEN, torch.ones_like(CHOSEN)),
            "FIF": (CHOSEN, CHOSEN),
            "PIF": (torch.ones_like(CHOSEN), torch.ones_like(CHOSEN)),
        }[method]
        block = Columns(lambda v, h=hessian: v @ h, columns, rows)  # type: ignore[misc]
        found = solve_lsqr(block, gradient, tolerance=1e-13, max_iterations=50).x
        weights = weights + group / len(x[stays]) * found * CHOSEN
        seen.append(weights[:2])
    return torch.stack(seen).numpy()


def panels(seed: int = 0) -> list[WeightPaths]:
    """One panel for single points, one for groups of five."""
    x, y = points(seed)
    start = torch.linalg.solve(x.T @ x, x.T @ y)
    left, targets = x[200:], y[200:]
    rest = targets - left[:, 2:] @ start[2:]
    optimum = torch.linalg.lstsq(left[:, :2], rest[:, None]).solution[:, 0]
    made = []
    for group, title in ((1, "a) one at a time, 200 times"), (5, "b) five at a time, 40 times")):
        paths = {name: path(name, x, y, start, group, 200 // group) for name in ("GIF", "FIF", "PIF")}
        for name, found in paths.items():
            missed = float(np.linalg.norm(found[-1] - optimum.numpy()) / torch.linalg.norm(start[:2] - optimum))
            typer.echo(f"{title}: {name} ends {missed:.1%} of the way from the least loss")
        ends = np.concatenate([*paths.values(), optimum.numpy()[None]])
        low, high = ends.min(0), ends.max(0)
        margin = 0.12 * (high - low)
        axes = [np.linspace(a - m, b + m, 121) for a, b, m in zip(low, high, margin, strict=True)]
        grid = np.stack(np.meshgrid(*axes), -1)
        predicted = grid.reshape(-1, 2) @ left[:, :2].numpy().T
        loss = np.square(predicted - rest.numpy()).mean(1).reshape(grid.shape[:2])
        made.append(WeightPaths(title, *axes, loss, paths, 50 // group, tuple(optimum.tolist())))
    return made


def main(
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("figure.html"),
    seed: Annotated[int, typer.Option(help="Of the points.")] = 0,
) -> None:
    """Write the figure."""
    weight_paths(panels(seed)).write_html(out, include_plotlyjs=True)


if __name__ == "__main__":
    typer.run(main)
