"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Trust = Annotated[bool, typer.Option("--trust", help="Let the study's plugin, which is Python code, run.")]
Out = Annotated[Path | None, typer.Option(help="File to write, .parquet or .csv; by default CSV on stdout.")]
