"""What all commands share: results on stdout, progress and refusals on stderr, one way to fail."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TextIO, TypeVar

import typer

from influence_core.demo import digits
from influence_core.errors import InfluenceError, InvalidInput
from influence_core.progress import duration, listen
from influence_core.study import Study

P = ParamSpec("P")
R = TypeVar("R")

FAILED, STOPPED = 1, 130
"""Exit codes of a refusal, and of Ctrl-C; 2 is that of a command that is written wrongly."""

TRACEBACK = "INFLUENCE_TRACEBACK"
"""Environment variable: set, an error that nobody expected shows its traceback."""

_QUIET, _BETWEEN, _REDRAWN = 1.0, 10.0, 0.1


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: whatever goes wrong ends in a sentence on stderr, and progress is shown there."""

    @functools.wraps(function)
    def guarded(*arguments: P.args, **given: P.kwargs) -> R:
        try:
            with shown_progress(), _plain_warnings():
                return function(*arguments, **given)
        except InfluenceError as error:
            said = str(error)
        except KeyboardInterrupt as stopped:
            why = str(stopped) or "nothing that was begun is left behind, and what was finished is kept"
            say(f"stopped by Ctrl-C: {why}")
            raise typer.Exit(STOPPED) from None
        except BrokenPipeError:  # `influence ... | head`
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # Python flushes it at the end
            raise typer.Exit(FAILED) from None
        except MemoryError:
            said = "there is not enough memory for this: influence doctor STUDY says what needs how much"
        except TimeoutError as error:
            said = str(error)
        except OSError as error:
            said = f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"
        except typer.Exit:
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and "memory" in str(error).lower():
                said = (
                    f"there is not enough memory for this ({str(error).splitlines()[0]}): influence doctor STUDY helps"
                )
            elif type(error).__module__.startswith(("typer", "click")) or os.environ.get(TRACEBACK):
                raise
            else:
                said = (
                    f"this should not have happened: {type(error).__name__}: {(str(error).splitlines() or [''])[0]} "
                    f"(with {TRACEBACK}=1 it shows where)"
                )
        say(said)
        raise typer.Exit(FAILED)

    return guarded


def say(words: str) -> None:
    """A sentence on stderr."""
    print(words, file=sys.stderr, flush=True)


def result(text: str) -> None:
    """A result on stdout, as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def as_json(facts: Any) -> None:
    """A result as JSON on stdout."""
    result(json.dumps(facts, indent=1, ensure_ascii=False, default=str))


def opened(path: str, trust: bool = False) -> Study:
    """The study that a command names: its folder, its ``study.toml``, or ``demo`` for the bundled one.

    Args:
        path: as given.
        trust: whether its plugin may run.

    Returns:
        The study.
    """
    if path == "demo" and not Path(path).exists():
        return digits()
    return Study.load(path, trust=trust)


def settings(pairs: list[str] | None) -> dict[str, Any]:
    """``name=value`` as arguments: numbers, true, false, null, texts, lists.

    Args:
        pairs: as given.

    Returns:
        Name -> value.

    Raises:
        InvalidInput: if one has no ``=``.
    """
    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--set {pair!r}: expected NAME=VALUE, such as --set damping=0.1")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


@contextmanager
def shown_progress(stream: TextIO | None = None) -> Iterator[None]:
    """Show work under way on stderr: one line that is drawn again in a terminal, else a line now and then.

    Args:
        stream: instead of stderr.

    Yields:
        Nothing.
    """
    out = sys.stderr if stream is None else stream
    line = _Line(out, out.isatty())
    with listen(line.tell):
        try:
            yield
        finally:
            line.clear()


class _Line:
    def __init__(self, out: TextIO, terminal: bool) -> None:
        self._out, self._terminal = out, terminal
        self._what, self._begun, self._drawn, self._width = "", 0.0, 0.0, 0

    def tell(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._begun, self._drawn = what, now, 0.0
        spent = now - self._begun
        if spent < _QUIET or now - self._drawn < (_REDRAWN if self._terminal else _BETWEEN):
            return
        self._drawn = now
        text = what + (f": {done:,} of {total:,}" if total else "")
        if total and 0 < done < total:
            text += f", about {duration(spent * (total - done) / done)} left"
        if self._terminal:
            self._out.write("\r" + text[:119].ljust(self._width))
            self._width = max(self._width, min(len(text), 119))
        else:
            self._out.write(text + "\n")
        self._out.flush()

    def clear(self) -> None:
        if self._terminal and self._width:
            self._out.write("\r" + " " * self._width + "\r")
            self._out.flush()


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings of this package as sentences, without the line of code that they came from."""
    before = warnings.showwarning

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"note: {message}")

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
