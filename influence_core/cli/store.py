"""``store``: the results that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from influence_core.cli import store_texts as texts
from influence_core.cli.console import FAILED, as_json, command, result, say
from influence_core.cli.options import Json
from influence_core.errors import InvalidInput
from influence_core.store import Entry, Store

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=texts.STORE)

StorePath = Annotated[
    Path | None, typer.Option("--store", help="Its folder; by default INFLUENCE_STORE, or the user's cache.")
]
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@app.command("ls", help=texts.STORE_LS)
@command
def ls(store: StorePath = None, json: Json = False) -> None:
    """List what is stored."""
    there = Store(store).entries()
    if json:
        as_json([_facts(one) for one in there])
    else:
        result("\n".join(map(_line, there)) or f"nothing is stored in {Store(store).path}")


@app.command("rm", help=texts.STORE_RM)
@command
def rm(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="First digits of keys of ls.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all that nobody uses just now.")] = False,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Remove results and fitted estimators."""
    if bool(keys) == everything:
        raise InvalidInput("name keys that 'influence store ls' shows, or --all for everything")
    there = Store(store)
    # a budget of one byte: what is in use just now stays
    removed = Store(there.path, budget=1).evict() if everything else there.remove(*(keys or []))
    _tell(removed, json)


@app.command("verify", help=texts.STORE_VERIFY)
@command
def verify(store: StorePath = None, json: Json = False) -> None:
    """Compare every file with its hash."""
    there = Store(store)
    damages = there.verify()
    if json:
        as_json([{"path": str(one.path), "error": one.error} for one in damages])
    elif not damages:
        result(f"every file of {there.path} is as it was written")
    for one in damages if not json else []:
        result(one.error)
    if damages:
        say("what is damaged is computed again when it is asked for; 'influence store rm KEY' removes it")
        raise typer.Exit(FAILED)


@app.command("du", help=texts.STORE_DU)
@command
def du(
    budget: Annotated[
        str | None, typer.Option(help="Remove what was not used for longest until the rest fits: 500M, 20G.")
    ] = None,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Say what the store takes."""
    there = Store(store)
    removed = [] if budget is None else Store(there.path, budget=_bytes(budget)).evict()
    found = there.to_frame()
    groups: list[tuple[str, str, int, int]] = [
        (str(study), str(kind), len(some), int(some["bytes"].sum()))
        for (study, kind), some in found.groupby(["study", "kind"])
    ]
    if json:
        parts = [dict(zip(("study", "kind", "count", "bytes"), one, strict=True)) for one in groups]
        as_json({"path": str(there.path), "bytes": int(found["bytes"].sum()), "parts": parts, "removed": len(removed)})
        return
    if removed:
        say(f"removed {len(removed)}, {_size(sum(one.bytes for one in removed))}")
    lines = [f"{_size(size):>10}  {count:>4} {kind:<7} {study}" for study, kind, count, size in groups]
    result("\n".join([*lines, f"{_size(int(found['bytes'].sum())):>10}  in {there.path}"]))


def _tell(removed: list[Entry], json: bool) -> None:
    if json:
        as_json([_facts(one) for one in removed])
    else:
        result(f"removed {len(removed)}, {_size(sum(one.bytes for one in removed))}")


def _facts(one: Entry) -> dict[str, object]:
    return {
        "key": one.key,
        "kind": one.kind,
        "study": one.study,
        "title": one.title,
        "state": one.state,
        "bytes": one.bytes,
        "used": one.used.isoformat(timespec="seconds"),
    }


def _line(one: Entry) -> str:
    used = pd.Timestamp(one.used).tz_convert(None).strftime("%Y-%m-%d %H:%M")
    return f"{one.key[:12]}  {one.state:<8}  {_size(one.bytes):>10}  {used}  {one.title} · {one.study}"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _bytes(text: str) -> float:
    """A size as a person writes it."""
    plain = text.strip().lower().removesuffix("b").removesuffix("i")
    number, unit = (plain[:-1], plain[-1:]) if plain[-1:] in _UNITS and plain else (plain, "")
    try:
        return float(number) * _UNITS[unit]
    except ValueError:
        raise InvalidInput(f"{text!r} is no size: write bytes, or 500M, 20G") from None
