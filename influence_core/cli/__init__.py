"""The command line: what made a classifier fail, which labels are wrong, and what mending them gives."""

from influence_core.cli.commands import app, main

__all__ = ["app", "main"]
