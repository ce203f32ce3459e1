"""Work in the background: a page starts it, draws what is there, and fills in the rest when it comes.

Threads of the server's own process. A piece of work is known by a key that says all it depends on, is done once for all
tabs, and ends by itself when no page has asked about it for a while, so leaving a page leaves nothing behind. What a
person waits for comes before what only fills in: that pauses between two steps while an answer is being made.
"""

import atexit
import gc
import importlib
import itertools
import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

import streamlit as st
import torch
from cachetools import Cache, LRUCache

import influence_core as ic
from parts import errors

T = TypeVar("T")
State = Literal["waiting", "running", "done", "failed", "stopped"]

log = logging.getLogger("influence")

PATIENCE = 0.35
"""Seconds that a page waits for an answer before it draws the place of it: what is quick appears at once."""
POLL, MOST_POLL = 0.5, 2.0
"""Seconds between two looks at work under way, and the most where that takes long: each look costs it a little."""
LOOKS = 50
"""At work under way, as far as its seconds are known before."""
FORGOTTEN = 20.0
"""Seconds after which work ends that no page has asked about."""
STOPPED = "stopped"
"""Where a tab keeps the work that its person stopped."""
WORKERS = 3
"""Answers that are made side by side; one more worker fills in."""
PAUSE = 2.0
"""Seconds at most that what fills in pauses at a quick step: another may wait for what it holds."""
PAUSE_STEPS = 5
"""And in steps of its own at most, where those are slow: it takes a sixth of the time from an answer."""
MEMORY = 512 * 2**20
"""Bytes of results that are kept, those of the longest ago asked for being let go first."""
LEAVE = 10.0
"""Seconds at most that the server's end waits for work to break off."""


class Stopped(Exception):
    """Raised inside of work that was stopped, or that nobody waits for any more."""


@dataclass(eq=False)
class Task:
    """A piece of work, shared by all tabs.

    Attributes:
        key: what it depends on.
        what: a few words for a person.
        work: does it.
        fills_in: whether something else is what a person waits for.
        expected: seconds, as far as they are known before.
        state: "done" has a ``value``, "failed" an ``error``.
        step: what it does just now; ``done`` of ``total`` steps are through (0: unknown).
        begun: when it began to run.
        stepped: when its last step began.
        asked: when a page last wanted to know.
        note: a sentence about it for a person.
        follows: the task that makes what this one waits for.
        patience: seconds after which it ends where no page has asked about it; ``None``: ``FORGOTTEN``.
    """

    key: Hashable
    what: str
    work: Callable[[], Any]
    fills_in: bool = False
    expected: float = 0.0
    state: State = "waiting"
    value: Any = None
    error: Exception | None = None
    step: str = ""
    done: int = 0
    total: int = 0
    begun: float = 0.0
    stepped: float = 0.0
    asked: float = field(default_factory=time.monotonic)
    note: str = ""
    follows: "Task | None" = None
    patience: float | None = None
    stop: bool = False
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def under_way(self) -> bool:
        """Whether it is still to come."""
        return self.state in ("waiting", "running")

    def touch(self) -> None:
        """Say that somebody still wants it."""
        task: Task | None = self
        while task is not None:
            task.asked = time.monotonic()
            task = task.follows

    def says(self) -> str:
        """What it does, how far it is and how long that will take, in words."""
        told = self.follows or self
        if self.state == "waiting":
            return f"{self.what} · waits for other work"
        share = told.done / told.total if told.total else 0.0
        named = told.step.startswith(self.what.split(":")[0])
        text = (told.step or self.what) if named or not told.step else f"{self.what} · {told.step}"
        if counted := ic.progress.tally(told.step, told.done, told.total):
            text += f" · {counted}"
        spent = time.monotonic() - told.begun
        if 0.02 < share < 1 and spent > 2:
            text += f" · about {ic.progress.duration(spent * (1 - share) / share)} left"
        return text

    def share(self) -> float:
        """How much is done, 0 to 1."""
        told = self.follows or self
        return min(1.0, told.done / told.total) if told.total else 0.0


_guard = threading.Lock()
# What pages ask for, and what that is made of. Apart: a fit as large as all there is room for must not push out the
# answer beside it on a page, or the two would be made in turns for ever. For the same reason eight answers always fit.
_kept: LRUCache[Hashable, Any] = LRUCache(MEMORY // 4, getsizeof=lambda value: min(MEMORY // 32, _size(value)))
_parts: LRUCache[Hashable, Any] = LRUCache(MEMORY * 3 // 4, getsizeof=lambda value: min(MEMORY * 3 // 4, _size(value)))
_tasks: dict[Hashable, Task] = {}  # waiting, under way or failed; what is done is in _kept alone
_locks: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()  # of what is being made just now
_makers: dict[Hashable, Task] = {}  # key -> the task that makes it, as a part of itself or whole
_current: ContextVar[Task | None] = ContextVar("current", default=None)
_answers: queue.PriorityQueue[tuple[float, int, Task]] = queue.PriorityQueue()
_fillings: queue.PriorityQueue[tuple[float, int, Task]] = queue.PriorityQueue()
_numbers = itertools.count()
_workers: list[threading.Thread] = []
_busy = threading.Condition()
_answering = 0  # answers waiting or under way
_ending = threading.Event()


def prepare() -> None:
    """Do what the first answer would wait for, a second's work, while the first browser fetches the page."""
    threading.Thread(target=_prepare).start()  # no daemon: Python waits for the end of an import


def _prepare() -> None:
    sample = torch.zeros(1, 1), torch.zeros(1, dtype=torch.long)
    ic.gradients.squared_norms(torch.nn.Linear(1, 2).eval(), ic.losses.cross_entropy, sample)  # torch imports more
    for page in ("frame", "panels", "selection"):
        importlib.import_module(f"parts.{page}")
    # Streamlit collects garbage after each run of a page or a part of it, and everything else stands still meanwhile:
    # a third of a second where it looks through all that the imports made, none where it passes over them.
    gc.collect()
    gc.freeze()


def ask(
    key: Hashable,
    work: Callable[[], Any],
    what: str,
    seconds: float | None = 0.0,
    fills_in: bool = False,
    note: str = "",
    patience: float | None = None,
) -> Task:
    """Start work, or find it under way or done; never waits.

    Args:
        key: what the result depends on, whole.
        work: makes the result.
        what: a few words for a person.
        seconds: expected; what is quicker is begun first.
        fills_in: whether it gives way to answers that a person waits for.
        note: a sentence about it for a person.
        patience: seconds after which it ends where no page has asked about it.

    Returns:
        The task.
    """
    with _guard:
        if key in _kept:
            return _finished(key, what)
        task = _tasks.get(key)
        if task is not None:
            task.touch()
            if not fills_in and task.fills_in:
                _hurry(task)
                if task.state == "waiting":
                    _enqueue(task, float(seconds or 0.0))  # whichever worker comes first takes it
            return task
        task = _tasks[key] = Task(key, what, work, fills_in, float(seconds or 0.0), note=note, patience=patience)
        _enqueue(task, task.expected)
    return task


def keep(key: Hashable, value: Any, what: str) -> Task:
    """Keep a result that is there already, such as one that was found on the disk.

    Args:
        key: what it depends on, whole.
        value: the result, shared by all tabs: not to be changed.
        what: a few words for a person.

    Returns:
        The task, done.
    """
    with _guard:
        _kept[key] = value
    return Task(key, what, lambda: None, state="done", value=value)


def peek(key: Hashable) -> Task | None:
    """The task of a key, if it is under way or done; nothing is started."""
    with _guard:
        if key in _kept:
            return _finished(key, "")
        task = _tasks.get(key)
    if task is not None:
        task.touch()
    return task


def has(key: Hashable) -> bool:
    """Whether a result is there."""
    with _guard:
        return key in _kept or key in _parts


def stop(task: Task) -> None:
    """End work at its next step, or before it begins; asking again starts it anew."""
    with _guard:
        for one in (task, task.follows):
            if one is not None:
                one.stop = True
        if task.state == "waiting":
            task.state = "stopped"
            del _tasks[task.key]
            task.finished.set()
    with _busy:
        _busy.notify_all()


def forget(key: Hashable) -> None:
    """Let go of what failed, so that asking again tries again."""
    with _guard:
        task = _tasks.get(key)
        if task is not None and not task.under_way:
            del _tasks[key]


def once(key: Hashable, make: Callable[[], T], what: str) -> T:
    """A result inside of work: made once, whoever needs it first.

    Args:
        key: what it depends on, whole.
        make: makes it.
        what: a few words for a person.

    Returns:
        The result, shared by all tabs: not to be changed.

    Raises:
        Stopped: if the work was stopped meanwhile.
    """
    task = _current.get()
    room = _kept if task is not None and task.key == key else _parts
    with _guard:
        if key in room:
            return room[key]
        lock = _locks.setdefault(key, threading.Lock())
        if task is not None and _makers.get(key) not in (None, task):
            task.follows = _makers[key]
            if not task.fills_in:
                _hurry(task)
    while not lock.acquire(timeout=0.2):
        if task is not None:
            _check(task)
    try:
        with _guard:
            if key in room:
                return room[key]  # by the one that was waited for
            if task is not None:
                task.follows, _makers[key] = None, task
        if task is not None:
            task.step = what
        made = make()
        with _guard:
            room[key] = made
        return made
    finally:
        lock.release()
        with _guard:
            _makers.pop(key, None)
            if task is not None:
                task.follows = None


def results() -> list[tuple[Hashable, Any]]:
    """All that is kept now, with its keys."""
    with _guard:
        # not by room[key], which would count as asking for it
        return [(key, Cache.__getitem__(room, key)) for room in (_kept, _parts) for key in room]


def wait(tasks: Iterable[Task], seconds: float | None = None) -> None:
    """Give quick work a moment, so that it appears at once."""
    end = time.monotonic() + (PATIENCE if seconds is None else seconds)
    for task in tasks:
        if task.under_way:
            task.finished.wait(max(0.0, end - time.monotonic()))


def pending(task: Task, key: str) -> None:
    """Draw work under way, with a way to stop it; the page is drawn again when it is through.

    Args:
        task: the work.
        key: of the place, once on a page.
    """

    @st.fragment(run_every=min(MOST_POLL, max(POLL, task.expected / LOOKS)))
    def show() -> None:
        task.touch()
        if not task.under_way:
            st.rerun()
        with st.container(horizontal=True, vertical_alignment="center", key=f"pending_{key}"):
            st.progress(task.share(), errors.as_text(task.says()))
            if st.button("Stop", key=f"stop_{key}", type="tertiary", icon=":material/stop_circle:"):
                stop(task)
                st.session_state.setdefault(STOPPED, set()).add(task.key)  # else it would begin anew by itself

    show()
    if task.note:
        st.caption(errors.as_text(task.note))


def was_stopped(key: Hashable) -> bool:
    """Whether this tab's person stopped that work, and has not begun it again."""
    return key in st.session_state.get(STOPPED, ())


def begin_again(key: Hashable) -> None:
    """Forget that the work was stopped."""
    st.session_state.get(STOPPED, set()).discard(key)


def _finished(key: Hashable, what: str) -> Task:
    return Task(key, what, lambda: None, state="done", value=_kept[key])


def _enqueue(task: Task, seconds: float) -> None:
    global _answering
    if not _workers:
        for number in range(WORKERS + 1):
            line = _fillings if number == WORKERS else _answers
            _workers.append(threading.Thread(target=_serve, args=(line,), daemon=True, name=f"work-{number}"))
            _workers[-1].start()
    if task.fills_in:
        _fillings.put((seconds, next(_numbers), task))
        return
    with _busy:
        _answering += 1
    _answers.put((seconds, next(_numbers), task))


def _hurry(task: Task) -> None:
    """Somebody waits for it now: neither it nor what it waits for pauses any more."""
    one: Task | None = task
    while one is not None:
        one.fills_in = False
        one = one.follows
    with _busy:
        _busy.notify_all()


def _serve(line: "queue.PriorityQueue[tuple[float, int, Task]]") -> None:
    while True:
        _serve_one(line)


def _serve_one(line: "queue.PriorityQueue[tuple[float, int, Task]]") -> None:
    """Its own function, so that a worker that waits for the next task keeps nothing of the last one alive."""
    global _answering
    task = line.get()[2]
    try:
        _run(task)
    finally:
        if line is _answers:
            with _busy:
                _answering -= 1
                _busy.notify_all()


def _run(task: Task) -> None:
    with _guard:
        if task.state != "waiting":  # stopped, or taken from the other line
            return
        task.state, task.begun = "running", time.monotonic()
    token = _current.set(task)
    state: State = "done"
    try:
        _check(task)
        with ic.progress.listen(lambda step, done, total: _listen(task, step, done, total)):
            task.value = once(task.key, task.work, task.what)
    except Stopped:
        state = "stopped"
    except Exception as error:
        if not isinstance(error, ic.InfluenceError):
            log.error("%s", "".join(traceback.format_exception(error)))
        error.__cause__ = error.__context__ = None
        task.error, state = error.with_traceback(None), "failed"  # a traceback keeps all that the work had made
    finally:
        _current.reset(token)
        with _guard:
            task.state = state
            if state != "failed" and _tasks.get(task.key) is task:
                del _tasks[task.key]
        task.finished.set()


def _listen(task: Task, step: str, done: int, total: int) -> None:
    task.step, task.done, task.total = step, done, total
    if task.fills_in:
        longest = max(PAUSE, PAUSE_STEPS * (time.monotonic() - (task.stepped or task.begun)))
        with _busy:
            _busy.wait_for(lambda: not (_answering and task.fills_in) or _unwanted(task), timeout=longest)
    task.stepped = time.monotonic()
    _check(task)


def _check(task: Task) -> None:
    if _unwanted(task):
        raise Stopped


def _unwanted(task: Task) -> bool:
    patience = FORGOTTEN if task.patience is None else task.patience
    return task.stop or _ending.is_set() or time.monotonic() - task.asked > patience


@atexit.register
def _end() -> None:
    """Work breaks off before Python ends: a thread that is inside of torch then would end the process with an abort."""
    _ending.set()
    with _busy:
        _busy.notify_all()
    end = time.monotonic() + LEAVE
    with _guard:
        running = [task for task in _tasks.values() if task.state == "running"]
    for task in running:
        task.finished.wait(max(0.0, end - time.monotonic()))


def _size(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors that a result holds; a study is shared by all and counts for nothing."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, (ic.Study, ic.data.LabelledDataset)):
        return 0
    seen.add(id(value))
    if isinstance(value, ic.applications.WhatIf):  # an edited model is nobody else's
        own = 0 if value.edited is None else _size(value.edited.model, seen)
        return own + sum(_size(part, seen) for part in vars(value).values())
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, torch.nn.Module):
        return sum(t.nbytes for t in (*value.parameters(), *value.buffers()))
    if isinstance(value, dict):
        return 64 + sum(_size(part, seen) for part in value.values())
    if isinstance(value, (list, tuple)):
        return 64 + sum(_size(part, seen) for part in value)
    if hasattr(value, "memory_usage"):
        return int(value.memory_usage(deep=False).sum())
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    return 64 + (sum(_size(part, seen) for part in vars(value).values()) if hasattr(value, "__dict__") else 0)
