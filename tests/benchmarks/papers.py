"""Tables and figures of the papers at the size of the digits, as Markdown: what PAPERS.md says of them.

    OMP_WAIT_POLICY=PASSIVE python -m tests.benchmarks.papers --only gex3
    OMP_WAIT_POLICY=PASSIVE python -m tests.benchmarks.papers --only gex7 --by-heart

Each seed is a study of its own: split, wrong labels, weights. ``--by-heart`` takes a network that has learnt its wrong
labels (sixty epochs of SGD) instead of the demo's, which stops before. Each table takes some minutes on one core.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from tests.benchmarks.mislabels import interval
from tests.benchmarks.paper_tables import backdoor, fvm, gex, gif, sam, sources
from tests.benchmarks.paper_tables.shared import Case, Cells, PaperTable

TABLES = {
    "gex3": PaperTable("GEX, Table 3: relabelled by eq. 16 above Otsu's threshold, trained again", gex.table3),
    "gex4": PaperTable("GEX, Table 4: two sources told apart", sources.table4, noise=0.0, network="of both sources"),
    "gex7": PaperTable("GEX, Table 7: members of the ensemble", gex.table7),
    "gex13": PaperTable("GEX, Table 13: minus the mean influence on the test set", gex.table13),
    "gex14": PaperTable("GEX, Table 14: TracInRP on the members of the ensemble", gex.table14),
    "gex-figure4": PaperTable("GEX, Figure 4: test accuracy after pruning the lowest", gex.figure4, noise=0.0),
    "fvm-figure2": PaperTable("FVM, Figure 2: along a training", fvm.figure2, noise=0.4, network="by heart"),
    "fvm-figure3": PaperTable("FVM, Figure 3: along the tuning", fvm.figure3, noise=0.4),
    "fvm6": PaperTable("FVM, Table 6: change of the loss, change of the weights", fvm.table6, noise=0.4),
    "fvm11": PaperTable("FVM, Table 11: images for validation", fvm.table11, noise=0.4),
    "fvm12": PaperTable("FVM, Table 12: sharpness-aware optimisers", fvm.table12, noise=0.4),
    "fvm13": PaperTable("FVM, Table 13: inverse curvatures", fvm.table13, noise=0.4),
    "sam-figure1": PaperTable("SAM, Figure 1b: wrong labels found", sam.figure1),
    "sam-figure2": PaperTable("SAM, Figure 2: test accuracy without the most valuable", sam.figure2),
    "sam-figure3": PaperTable("SAM, Figures 1a and 3: test accuracy without the most harmful", sam.figure3),
    "sam2": PaperTable("SAM, Table 2: without the lowest tenth", sam.table2),
    "sam-figure5": PaperTable("SAM, Figure 5: test accuracy, edited and retrained", sam.figure5),
    "sam-figure12": PaperTable("SAM, Figure 12: checkpoints of SAM-GIF's edit", sam.figure12),
    "gif1": PaperTable("GIF, Table 1: selections of weights, digit 8 removed", gif.table1, noise=0.0),
    "gif2": PaperTable("GIF, Table 2: GIF, FIF and PIF, digit 8 removed", gif.table2, noise=0.0),
    "gif-figure3": PaperTable(
        "GIF, Figure 3: negative eigenvalues with a penalty", gif.figure3, noise=0.0, network="64-16-10"
    ),
    "gif3": PaperTable("GIF, Table 3: a backdoor mended", backdoor.table3, noise=0.0, network="SAM, 24 epochs"),
}


def markdown(found: dict[str, list[Cells]]) -> str:
    """A table of means and 95 % intervals over the seeds.

    Args:
        found: title of a row -> its cells for each seed.
    """
    columns = list(dict.fromkeys(column for seeds in found.values() for cells in seeds for column in cells))
    lines = [f"| | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for title, seeds in found.items():
        lines.append(f"| {title} | {' | '.join(interval(seeds, column) for column in columns)} |")
    return "\n".join(lines)


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"{', '.join(TABLES)}; all by default.")] = None,
    seeds: Annotated[int, typer.Option(help="How many, from the first.")] = 3,
    noise: Annotated[float | None, typer.Option(help="Share of wrong labels, instead of the table's own.")] = None,
    by_heart: Annotated[bool, typer.Option(help="Train until wrong labels are known by heart.")] = False,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    images: Annotated[int, typer.Option(help="Training images, of 1000; SAM studies alone.")] = 1000,
    data: Annotated[Path | None, typer.Option(help="Folder with cifar10_test.parquet, for gex4.")] = None,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
) -> None:
    """Print the rows of some tables: means over the seeds with 95 % intervals, in per cent where nothing is said."""
    torch.set_num_threads(threads)
    for name in only or TABLES:
        if name not in TABLES:
            raise typer.BadParameter(f"there is no table {name!r}; choose from {', '.join(TABLES)}")
        table = TABLES[name]
        share = table.noise if noise is None else noise
        found: dict[str, list[Cells]] = {}
        begun = time.perf_counter()
        for seed in range(first, first + seeds):
            for title, cells in table.rows(Case(seed, share, by_heart, images, data)):
                found.setdefault(title, []).append(cells)
                typer.echo(f"seed {seed}, {time.perf_counter() - begun:.0f} s: {title} {cells}", err=True)
        network = table.network or ("by heart" if by_heart else "SAM study")
        typer.echo(f"\n{table.title}; {share:.0%} wrong labels, {network}, {images} images, ", nl=False)
        typer.echo(f"seeds {first} to {first + seeds - 1}, {time.perf_counter() - begun:.0f} s\n\n{markdown(found)}")


if __name__ == "__main__":
    typer.run(main)
