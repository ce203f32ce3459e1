"""Self-influence on two circles with ten odd samples in the middle, by true retraining and by estimators.

Run ``python -m tests.benchmarks.two_circles --out figure.html``; the defaults take some minutes on one core. This is
the toy of the GEX paper (its Figures 2 and 3): 30 samples on each of two circles, and ten at the centre with the label
of the *outer* circle, so that the samples around them have the other label. The paper claims that self-influence by
leave-one-out retraining has two modes, and GEX has, and methods that are bilinear in gradients have one.

What the paper leaves open is an option here. The ten lie on a ring, as its figure's caption has it, close to a dense
inner circle, and training goes on until every label is fitted. Each of the 70 models without one sample starts from the
weights that the model with all of them started from, and takes the same steps, each on all of its samples, in float64.
A batch that holds all samples would leave the members of GEX where they are, at the minimum, so that they take smaller
ones.

Two modes are tested for in two ways. Hartigan's dip test, on the scores and on their logarithms, knows no groups: a
small p-value speaks against one mode, but with 70 samples it does not see modes that are wide. Ashman's D knows them:
the distance of the means of centre and circles in units of the root mean square of their standard deviations; above 2
the groups have modes of their own. It takes its sign from the centre, whose scores ought to be the larger ones. The AUC
says how often they are.

With the defaults, retraining puts the centre apart in most seeds, and so does TracIn, though bilinear; GEX does so no
more often than its linearisation.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import plotly.graph_objects as go
import torch
import typer
from plotly.subplots import make_subplots
from sklearn.datasets import make_circles
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.figures import HARMFUL, HELPFUL, MAIN
from influence_core.training import Checkpoint, Trajectory

HIDDEN, PER_CIRCLE, CENTRE = 200, 30, 10
WEIGHT_DECAY, MOMENTUM, RATE = 5e-4, 0.9, 0.1
TRUTH = "Leave-one-out"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "GEX": ("gex", {"batch_size": 16, "epochs": 800 * 16 / 70}),
    "GEX, linearised": ("gexlinear", {"batch_size": 16, "epochs": 800 * 16 / 70}),
    "Influence function": ("conjugategradient", {"damping": 0.01}),
    "EK-FAC": ("ekfac", {}),
    "TracIn": ("tracin", {}),
    "TracInRP": ("tracinrp", {}),
    "RandProj": ("randproj", {}),
    "Arnoldi": ("arnoldi", {}),
    "Laplace": ("laplace", {"structure": "full"}),
    "Laplace, linearised": ("laplace", {"structure": "full", "linearised": True}),
}
"""Members of GEX take 800 steps, as in the paper."""


def samples(seed: int, noise: float, factor: float, radius: float) -> tuple[Tensor, Tensor]:
    """Positions [70, 2] and labels [70]: outer circle 0, inner circle 1, the ten of the centre 0."""
    circles, labels = make_circles(2 * PER_CIRCLE, noise=noise or None, factor=factor, random_state=seed)
    angles = 2 * math.pi * np.arange(CENTRE) / CENTRE
    centre = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    centre += noise * np.random.default_rng(seed).standard_normal(centre.shape)
    positions = torch.tensor(np.concatenate([circles, centre]))
    return positions, torch.tensor(np.concatenate([labels, np.zeros(CENTRE, int)]))


def train(x: Tensor, y: Tensor, seed: int, steps: int) -> tuple[ic.Study, Tensor]:
    """The study, and its exact self-influence by retraining, [70]: all models are trained side by side."""
    count = len(x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2)).double()
    kept = torch.cat([torch.ones(1, count), 1 - torch.eye(count)]).to(x)
    weights = [p.detach().expand(count + 1, *p.shape).clone().requires_grad_() for p in model.parameters()]
    optimiser = torch.optim.SGD(weights, lr=RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    recorded, rates = [], 0.0

    def losses() -> Tensor:
        hidden = torch.relu(torch.baddbmm(weights[1][:, None], x.expand(count + 1, -1, -1), weights[0].mT))
        outputs = torch.baddbmm(weights[3][:, None], hidden, weights[2].mT)
        return nn.functional.cross_entropy(outputs.mT, y.expand(count + 1, -1), reduction="none")

    for i in range(1, steps + 1):
        rate = RATE * ic.training.cosine((i - 1) / steps)
        optimiser.param_groups[0]["lr"] = rate
        rates += rate
        optimiser.zero_grad()
        ((losses() * kept).sum() / count).backward()
        optimiser.step()
        if i % (steps // 5) == 0:
            state = dict(zip(dict(model.named_parameters()), [w[0].detach().clone() for w in weights], strict=True))
            recorded.append(Checkpoint(i, float(i), max(rate, 1e-9), rates, 0.0, state))
            rates = 0.0
    with torch.no_grad():
        after = losses()
        model.load_state_dict(recorded[-1].state)
    data = TensorDataset(x, y)
    study = ic.Study(model, data, data, trajectory=Trajectory(recorded), weight_decay=WEIGHT_DECAY, name="two circles")
    return study, after[1:].diagonal() - after[0]


def modes(values: np.ndarray) -> tuple[float, float]:
    """P-values of one mode, of the values and of their logarithms."""
    import diptest

    positive = np.log10(np.maximum(values, values.max() * 1e-6))
    return tuple(float(diptest.diptest(v)[1]) for v in (values, positive))  # type: ignore[return-value]


def ashman(values: np.ndarray) -> float:
    """Distance of the centre's mean from the circles', in units of their spread."""
    circles, centre = values[: 2 * PER_CIRCLE], values[2 * PER_CIRCLE :]
    spread = math.sqrt((circles.var(ddof=1) + centre.var(ddof=1)) / 2)
    return float((centre.mean() - circles.mean()) / spread)


def figure(x: Tensor, y: Tensor, scores: dict[str, np.ndarray]) -> go.Figure:
    """The samples, and a histogram of the self-influence by each method."""
    centre = np.arange(len(x)) >= 2 * PER_CIRCLE
    titles = []
    for name, values in scores.items():
        area = roc_auc_score(centre, values)
        titles.append(f"<b>{name}</b><br>D {ashman(values):.1f}, AUC {area:.2f}, dip p {modes(values)[0]:.2f}")
    columns = 3
    rows = math.ceil((len(scores) + 1) / columns)
    drawn = make_subplots(
        rows, columns, subplot_titles=["<b>Samples</b><br> ", *titles], vertical_spacing=0.1, horizontal_spacing=0.07
    )
    groups = [
        ("outer circle", (y.numpy() == 0) & ~centre, MAIN),
        ("inner circle", y.numpy() == 1, HELPFUL),
        ("centre, with the outer circle's label", centre, HARMFUL),
    ]
    for name, mask, colour in groups:
        drawn.add_scatter(
            x=x[mask, 0], y=x[mask, 1], mode="markers", marker={"color": colour, "size": 7}, name=name, row=1, col=1
        )
    drawn.update_xaxes(row=1, col=1, range=[-1.35, 1.35], constrain="domain")
    drawn.update_yaxes(row=1, col=1, scaleanchor="x", range=[-1.35, 1.35])
    for place, (_, values) in enumerate(scores.items(), start=1):
        row, col = place // columns + 1, place % columns + 1
        logs = np.log10(np.maximum(values, values.max() * 1e-6))
        edges = np.linspace(logs.min(), logs.max(), 25)
        for _, mask, colour in groups:
            counts, _ = np.histogram(logs[mask], edges)
            drawn.add_bar(
                x=(edges[:-1] + edges[1:]) / 2,
                y=counts,
                width=np.diff(edges),
                marker={"color": colour, "line": {"width": 0}},
                showlegend=False,
                row=row,
                col=col,
            )
        ticks = np.arange(math.ceil(edges[0]), math.floor(edges[-1]) + 1)
        space = 0.04 * (edges[-1] - edges[0])
        drawn.update_xaxes(
            row=row,
            col=col,
            tickvals=ticks,
            ticktext=[f"10<sup>{t:.0f}</sup>" for t in ticks],
            range=[edges[0] - space, edges[-1] + space],
            zeroline=False,
        )
    drawn.update_yaxes(col=1, title="samples")
    drawn.update_yaxes(row=1, col=1, title="")
    drawn.update_xaxes(row=rows, title="self-influence (logarithmic)")
    drawn.update_annotations(font={"size": 13})
    drawn.update_layout(
        template="plotly_white",
        barmode="stack",
        bargap=0,
        width=1080,
        height=250 * rows + 100,
        margin={"l": 60, "r": 20, "t": 120, "b": 50},
        legend={
            "orientation": "h",
            "traceorder": "normal",
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 0.945,
            "yref": "container",
            "yanchor": "middle",
        },
        title={
            "text": "Self-influence. D: distance of the centre from the circles in units of their spread, "
            "two modes above 2.<br>Dip p: Hartigan's test of a single mode, two modes below 0.05.",
            "font": {"size": 14},
            "x": 0.01,
            "y": 0.99,
            "yanchor": "top",
        },
        font={"color": "#30343b"},
    )
    return drawn


def main(
    out: Annotated[Path | None, typer.Option(help="HTML file for the figure of the first seed.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 5,
    noise: Annotated[float, typer.Option(help="Standard deviation of positions.")] = 0.02,
    factor: Annotated[float, typer.Option(help="Radius of the inner circle.")] = 0.4,
    radius: Annotated[float, typer.Option(help="Radius of the ring of ten at the centre.")] = 0.2,
    steps: Annotated[int, typer.Option(help="Steps of gradient descent.")] = 2000,
    only: Annotated[list[str] | None, typer.Option(help="Methods; all by default.")] = None,
) -> None:
    """Retrain without each sample, estimate its self-influence by every method, and test for two modes."""
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(seeds):
        x, y = samples(seed, noise, factor, radius)
        study, truth = train(x, y, seed, steps)
        scores = {TRUTH: truth.numpy()}
        for title, (name, settings) in METHODS.items():
            if not only or name in only:
                scores[title] = ic.estimators.get(name, **settings).fit(study).self_influence().values.numpy()
        centre = np.arange(len(x)) >= 2 * PER_CIRCLE
        for title, values in scores.items():
            rank = np.corrcoef(*(np.argsort(np.argsort(v)) for v in (values, scores[TRUTH])))[0, 1]
            area = float(roc_auc_score(centre, values))
            found.setdefault(title, []).append((ashman(values), area, float(rank), *modes(values)))
        typer.echo(
            f"seed {seed}: accuracy {study.accuracy('train'):.2f}, loss on the circles "
            f"{study.losses('train')[~centre].mean():.3f}, at the centre {study.losses('train')[centre].mean():.3f}"
        )
        if out is not None and seed == 0:
            figure(x, y, scores).write_html(out, include_plotlyjs=True)
    typer.echo(f"\nnoise {noise}, inner circle {factor}, centre {radius}, {steps} steps, seeds 0 to {seeds - 1}\n")
    typer.echo("| self-influence | D > 2 | D, each seed | AUC | rank | dip p, each seed | dip p of logarithms |")
    typer.echo("|---|---|---|---|---|---|---|")
    for title, rows in found.items():
        distances, areas, ranks, raw, logs = zip(*rows, strict=True)
        cells = [
            f"{sum(d > 2 for d in distances)} of {len(rows)}",
            ", ".join(f"{d:.1f}" for d in distances),
            f"{statistics.mean(areas):.2f}",
            f"{statistics.mean(ranks):.2f}",
            *(", ".join(f"{p:.3f}" for p in some) for some in (raw, logs)),
        ]
        typer.echo(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
