"""A trajectory from checkpoint files that somebody's training left in a folder."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.models.weights import check_finite, load_checkpoint
from influence_core.training.fit import whole
from influence_core.training.trajectory import Checkpoint, Recipe, Trajectory

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Of files that hold weights."""

_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
_STEP = re.compile(r"(?<![a-z])(?:global[_-]?)?(?:step|iteration|iter|itr)s?[=_\- ]*(\d+)", re.IGNORECASE)
_EPOCH = re.compile(r"(?<![a-z])(?:epoch|ep)s?[=_\- ]*(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\d.])(\d+)(?!\d*\.?\d)")

Rates = float | Sequence[float] | Mapping[Any, float] | str | Path
"""Learning rates of checkpoints: see ``read_checkpoints``."""


@dataclass(frozen=True)
class _Found:
    """A file, what is known of it, and what it holds."""

    path: Path
    name: str
    known: dict[str, float]
    facts: Mapping[str, Any]
    state: dict[str, Tensor]


def read_checkpoints(
    files: str | Path | Iterable[str | Path],
    pattern: str | None = None,
    *,
    learning_rates: Rates | None = None,
    steps_per_epoch: int | None = None,
    rho: float = 0.0,
    recipe: Recipe | None = None,
) -> Trajectory:
    """Read the checkpoints of a training as a trajectory.

    Step and epoch are read from the file's name, ``epoch=3-step=1200.ckpt`` or ``model_epoch_10.pth``; else from the
    facts inside of it (``global_step``, ``step``, ``epoch``); else a number alone in the name is the step:
    ``checkpoint_0300.pt``, or ``checkpoint-500/model.safetensors``. Pickles that hold more than tensors and plain facts
    are refused, never run.

    Args:
        files: a folder, whose files ``.safetensors .pt .pth .ckpt .bin`` are taken in the order of their numbers (9
            before 10); or the files themselves.
        pattern: regular expression; files in whose names it is not found are left out. Groups called ``step``,
            ``epoch``, ``learning_rate`` or ``rho`` say what is read there.
        learning_rates: in force before each checkpoint: one number for all; a list in the order of the files; a mapping
            by file name, or by step or epoch; a regular expression with one group, for the file names; or a CSV file
            with the columns ``learning_rate`` and ``file``, ``step`` or ``epoch`` (``learning_rate_sum`` and ``rho``
            are read too). By default what ``pattern`` or the state of the optimiser in the file says.
        steps_per_epoch: to tell steps from epochs, where names have epochs alone, and epochs from steps.
        rho: radius of a sharpness-aware ascent, where nothing else says one.
        recipe: how the model was trained, if it is known.

    Returns:
        The checkpoints, by step. ``learning_rate_sum`` takes each rate for all steps since the checkpoint before; where
        only epochs are known, and no ``steps_per_epoch``, steps are counted in epochs and the sums are 0.

    Raises:
        InvalidInput: naming the file: it cannot be read, or has no step or learning rate.
    """
    per_epoch = None if steps_per_epoch is None else whole("steps_per_epoch", steps_per_epoch)
    if per_epoch is not None and per_epoch < 1:
        raise InvalidInput(f"steps_per_epoch={per_epoch}: expected a whole number from 1")
    named = _matching(_listed(files), pattern)
    given = _rates(learning_rates, [name for _, name, _ in named])
    found = []
    for number, (path, name, known) in enumerate(named):
        state, facts = load_checkpoint(path)
        for key, tensor in state.items():
            check_finite(tensor, f"{key} in {path}")
        entry = _Found(path, name, _numbered(name, known, facts), facts, state)
        found.append(_Found(path, name, entry.known | given(number, entry), facts, state))
    return _trajectory(found, per_epoch, rho, recipe)


def _listed(files: str | Path | Iterable[str | Path]) -> list[tuple[Path, str]]:
    """Paths with the names by which they are known, in natural order for a folder."""
    if not isinstance(files, (str, Path)):
        paths = [Path(file) for file in files]
        if not paths:
            raise InvalidInput("files is empty: a trajectory needs at least one checkpoint")
        return [(path, path.name) for path in paths]
    folder = Path(files)
    if folder.is_file():
        return [(folder, folder.name)]
    if not folder.is_dir():
        raise InvalidInput(f"there is no folder {folder}: give the one that the checkpoints lie in, or their files")
    paths = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    if not paths:
        inside = (next((p for n in _IN_FOLDERS if (p := sub / n).is_file()), None) for sub in folder.iterdir())
        paths = [path for path in inside if path is not None]
    if not paths:
        raise InvalidInput(f"{folder} has no checkpoint: no file in it ends in {', '.join(SUFFIXES)}")
    named = [(path, path.relative_to(folder).as_posix()) for path in paths]
    return sorted(named, key=lambda one: _natural(one[1]))


def _natural(name: str) -> list[tuple[int, str]]:
    """A key to sort by in which 9 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if i % 2 else (-1, part.lower()) for i, part in enumerate(parts)]


def _matching(files: list[tuple[Path, str]], pattern: str | None) -> list[tuple[Path, str, dict[str, float]]]:
    if pattern is None:
        return [(path, name, {}) for path, name in files]
    wanted = _compiled(pattern, "pattern")
    matches = [(path, name, wanted.search(name)) for path, name in files]
    found = [(p, n, _groups(match, n)) for p, n, match in matches if match is not None]
    if not found:
        raise InvalidInput(f"pattern={pattern!r} is in no file name; the first one is {files[0][1]!r}")
    return found


def _groups(match: re.Match[str], name: str) -> dict[str, float]:
    texts = {key: text for key, text in match.groupdict().items() if text is not None}
    unknown = sorted(set(match.groupdict()) - {"step", "epoch", "learning_rate", "rho"})
    if unknown:
        raise InvalidInput(f"pattern has a group {unknown[0]!r}; it may have step, epoch, learning_rate and rho")
    return {key: _number(text, f"{key} in the name {name}") for key, text in texts.items()}


def _compiled(pattern: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidInput(f"{what}={pattern!r} is no regular expression: {error}") from error


def _number(text: Any, what: str) -> float:
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInput(f"{what} is {text!r}, expected a number")
    return number


def _numbered(name: str, known: dict[str, float], facts: Mapping[str, Any]) -> dict[str, float]:
    """Step and epoch: of the pattern, of words in the name, of the facts in the file, of a number in the name."""
    stem = Path(name).parent.as_posix() if "/" in name else Path(name).stem
    said = {key: match for key, word in (("step", _STEP), ("epoch", _EPOCH)) if (match := word.search(stem))}
    read = {key: float(match[1]) for key, match in said.items()}
    inside = {"step": facts.get("global_step", facts.get("step")), "epoch": facts.get("epoch")}
    plain = {k: float(v) for k, v in inside.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    placed = {"step", "epoch"}
    if not placed & (plain | read | known).keys() and (numbers := _NUMBER.findall(stem)):
        read = {"step": float(numbers[-1])}
    return plain | (known if placed & known.keys() else read | known)


def _rates(rates: Rates | None, names: list[str]) -> Any:
    """A function of a file's number and of the file: its learning rate, and what else a table says."""
    if rates is None:
        return lambda number, file: {} if "learning_rate" in file.known else {"learning_rate": _of_optimizer(file)}
    if isinstance(rates, Path) or (isinstance(rates, str) and rates.lower().endswith(".csv")):
        return _of_table(Path(rates))
    if isinstance(rates, str):
        wanted = _compiled(rates, "learning_rates")
        if wanted.groups != 1:
            raise InvalidInput(f"learning_rates={rates!r} needs one group, (...), around the number in a file's name")
        return lambda number, file: {"learning_rate": _of_name(wanted, file)}
    if isinstance(rates, Mapping):
        return lambda number, file: {"learning_rate": _of_mapping(rates, file)}
    if isinstance(rates, Sequence):
        if len(rates) != len(names):
            raise InvalidInput(
                f"learning_rates has {len(rates)} numbers for {len(names)} checkpoints, which are "
                f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
            )
        return lambda number, file: {"learning_rate": _number(rates[number], f"the learning rate of {file.path}")}
    one = _number(rates, "learning_rates")
    return lambda number, file: {"learning_rate": one}


def _of_optimizer(file: _Found) -> float:
    states = [file.facts.get("optimizer"), file.facts.get("optimizer_state_dict")]
    several = file.facts.get("optimizer_states")
    states += list(several) if isinstance(several, (list, tuple)) else []
    groups = next((s["param_groups"] for s in states if isinstance(s, Mapping) and s.get("param_groups")), None)
    if groups and isinstance(groups[0], Mapping) and "lr" in groups[0]:
        return _number(groups[0]["lr"], f"the learning rate in {file.path}")
    raise InvalidInput(
        f"{file.path} does not say its learning rate: pass learning_rates=, one number, a list or a table"
    )


def _of_name(wanted: re.Pattern[str], file: _Found) -> float:
    match = wanted.search(file.name)
    if match is None:
        raise InvalidInput(f"learning_rates={wanted.pattern!r} is not in the name of {file.path}")
    return _number(match[1], f"the learning rate in the name of {file.path}")


def _of_mapping(rates: Mapping[Any, Any], file: _Found) -> float:
    keys: list[str | int] = [file.name, file.path.name, Path(file.name).stem]
    keys += [int(file.known[key]) for key in ("step", "epoch") if key in file.known]
    for key in keys:
        if key in rates:
            return _number(rates[key], f"the learning rate of {file.path}")
    raise InvalidInput(
        f"learning_rates has none for {file.path}; looked for {', '.join(map(repr, dict.fromkeys(keys)))}"
    )


def _of_table(path: Path) -> Any:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"the table {path} cannot be read: {error}") from error
    columns = set(rows[0]) if rows else set()
    by = next((name for name in ("file", "step", "epoch") if name in columns), None)
    if by is None or "learning_rate" not in columns:
        shown = ", ".join(sorted(map(str, columns))) or "none"
        raise InvalidInput(f"{path} needs the columns learning_rate, and file, step or epoch; it has {shown}")

    def look_up(number: int, file: _Found) -> dict[str, float]:
        own = {file.name, file.path.name, Path(file.name).stem}
        for row in rows:
            same = row[by] in own if by == "file" else _number(row[by], f"{by} in {path}") == file.known.get(by)
            if same:
                read = {n for n in ("learning_rate", "learning_rate_sum", "rho", "step", "epoch") if row.get(n)}
                return {
                    name: _number(row[name], f"{name} of {file.name} in {path}") for name in read | {"learning_rate"}
                }
        raise InvalidInput(f"{path} has no row for {file.path}")

    return look_up


def _trajectory(found: list[_Found], per_epoch: int | None, rho: float, recipe: Recipe | None) -> Trajectory:
    placed = [(_step(file, per_epoch), file) for file in found]
    placed.sort(key=lambda one: one[0])
    exact = per_epoch is not None or all("step" in file.known for file in found)
    checkpoints: list[Checkpoint] = []
    before, last = 0, None
    for step, file in placed:
        if last is not None and step == before:
            raise InvalidInput(f"{last.path} and {file.path} are both of step {step}: take one of them")
        rate = file.known["learning_rate"]
        total = file.known.get("learning_rate_sum", rate * (step - before) if exact else 0.0)
        epoch = file.known.get("epoch", step / per_epoch if per_epoch else 0.0)
        try:
            checkpoints.append(Checkpoint(step, epoch, rate, total, file.known.get("rho", rho), file.state))
        except InvalidInput as error:
            raise InvalidInput(f"{file.path}: {error}") from error
        before, last = step, file
    return Trajectory(checkpoints, recipe)


def _step(file: _Found, per_epoch: int | None) -> int:
    if "step" not in file.known and "epoch" not in file.known:
        raise InvalidInput(
            f"no step or epoch can be read from the name of {file.path}: pass pattern=, a regular expression with a "
            "group (?P<step>...) or (?P<epoch>...); files that it does not match are left out"
        )
    step = file.known.get("step")
    step = file.known["epoch"] * (per_epoch or 1) if step is None else step
    if step != int(step):
        raise InvalidInput(f"{file.path} is of step {step:g}, expected a whole number")
    return int(step)
