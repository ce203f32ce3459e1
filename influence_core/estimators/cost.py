"""How long an estimator will take, before it starts: its work times a pass that is measured on the study itself."""

from __future__ import annotations

import copy
import statistics
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.estimators.memory import known_sizes, memory_mib
from influence_core.estimators.work import Work, passes_of, trained
from influence_core.gradients import squared_norms
from influence_core.models import model_outputs
from influence_core.progress import listen
from influence_core.study import Study
from influence_core.training import step

FEW, MANY = 2, 256
"""Images of the shorter and at most of the longer measurement; a pass is what they differ by."""

BUDGET = 0.15
"""Seconds of a run beyond which no longer one is made."""

LONGEST = 0.6
"""Seconds of the shorter run beyond which there is no longer one."""

TRIED = 6
"""Samples that a sweep tries before the first one."""

GROWTH = 4
REPEATS = 3

MATRIX = 256
"""Rows of the matrices whose product is timed."""


@dataclass(frozen=True)
class MeasuredPass:
    """Seconds of the parts that ``Work`` counts.

    Attributes:
        forward: of a sample.
        backward: of a sample, with its own gradient.
        plain: of a sample, forward and backward as in training.
        sweep: before the first sample of a sweep: copying, planning and trying it.
        step: before the first sample of a training step.
        algebra: of a multiply-add.
    """

    forward: float
    backward: float
    plain: float
    sweep: float
    step: float
    algebra: float

    def seconds(self, work: Work) -> float:
        """Of some work."""
        samples = work.forward * self.forward + work.backward * self.backward + work.plain * self.plain
        return samples + work.sweeps * self.sweep + work.steps * self.step + work.algebra * self.algebra


@dataclass(frozen=True)
class Expected:
    """What an estimator is expected to cost. Half or twice of it is as near as it comes.

    Attributes:
        seconds: of fit and call together; ``None`` where it is not known.
        fit_seconds: of ``fit``; 0 where that is done already.
        query_seconds: of the call.
        passes: single-sample passes of both, in words.
        memory_mib: at its most, beside the study; ``None`` where it is not known.
    """

    seconds: float | None
    fit_seconds: float | None
    query_seconds: float | None
    passes: str
    memory_mib: float | None = None

    def in_words(self) -> str:
        """Time and memory, such as "about 2 min (fit) + 3 s, and 600 MiB of memory"."""
        return str(self) if self.memory_mib is None else f"{self}, and {said_mib(self.memory_mib)} of memory"

    def __str__(self) -> str:
        """Time alone, such as "about 2 min (fit) + 3 s"."""
        if self.fit_seconds is None or self.query_seconds is None:
            return "not known"
        fit, query = said(self.fit_seconds), said(self.query_seconds)
        if self.fit_seconds < NOTICED:
            return query if self.query_seconds < NOTICED else f"about {query}"
        return f"about {fit} (fit)" + ("" if self.query_seconds < NOTICED else f" + {query}")


NOTICED = 0.1
"""Seconds below which nobody waits."""


def expected_cost(
    study: Study,
    estimator: Estimator,
    what: str = "influence",
    tests: int = 1,
    fitted: bool = False,
    besides: Work | None = None,
) -> Expected:
    """How long an estimator will take on this machine, and how much memory, without starting it.

    The work that the estimator states (see ``Estimator.work``) is multiplied by passes that were measured on the study.
    Solves count with a typical number of steps, products of gradients without shortcuts, and other work on the machine
    as it was while measuring: half or twice the real time is as near as this comes.

    Args:
        study: to be worked on; it is not changed. The first call for a study measures, for up to a second or two.
        estimator: with its hyper-parameters, fitted or not.
        what: name of the public method.
        tests: number of test images, or for ``parameter_change`` of training images that change.
        fitted: whether ``fit`` is done already, so that only the call is left.
        besides: work that follows the call and counts with it.

    Returns:
        Seconds, passes and memory; unknown where the estimator does not state its work, the study lacks what it needs,
        or the model has no per-sample gradients.

    Raises:
        InvalidInput: if there is no such method, or ``tests`` is below 1.
        NotSupported: if the theory of the estimator does not give it.

    Example:
        >>> import influence_core as ic
        >>> ic.estimators.expected_cost(ic.demo.digits(), ic.estimators.TRAK(), tests=10).passes
        '6,060 backward'
    """
    if tests < 1:
        raise InvalidInput(f"tests is {tests}; the cost is that of at least one image")
    work = None if estimator.missing(study, what) else estimator.work(study, what, tests)
    if work is None:
        return Expected(None, None, None, "not known")
    fit, call = Work() if fitted else work[0], work[1] + (besides or Work())
    both, pace, sizes = fit + call, measured_pass(study), known_sizes(study)
    memory = None if sizes is None else memory_mib(study, both, what, tests, sizes)
    if pace is None:
        return Expected(None, None, None, both.words(), memory)
    return Expected(pace.seconds(both), pace.seconds(fit), pace.seconds(call), both.words(), memory)


def expected_training(study: Study, images: Sequence[int]) -> Expected:
    """How long it takes to train a study's model anew by its recipe, without starting it.

    Args:
        study: whose model, images and recipe are meant; it is not changed. The first call for a study measures.
        images: in the training set of each training.

    Returns:
        Seconds of all trainings, one after the other; unknown where no pass of the model could be measured.

    Example:
        >>> import influence_core as ic
        >>> ic.estimators.expected_training(ic.demo.digits(), [1000, 990]).fit_seconds
        0.0
    """
    recipe, pace = recipe_of(study), measured_pass(study)
    work = sum((trained(n, recipe.epochs, recipe.batch_size, passes_of(recipe)) for n in images), Work())
    if pace is None:
        return Expected(None, None, None, work.words())
    return Expected(pace.seconds(work), 0.0, pace.seconds(work), work.words())


def measured_pass(study: Study) -> MeasuredPass | None:
    """Passes through the study's model, timed on some of its training images; once for a study and process.

    Args:
        study: only read; the passes run on copies of its model.

    Returns:
        The seconds; ``None`` where per-sample gradients are impossible.
    """
    with _lock:  # two measurements at a time would slow each other
        if study not in _measured:
            with listen(lambda *_: None), torch.inference_mode(False):
                try:
                    _measured[study] = _measure(study)
                except InvalidInput:  # the model mixes samples, say; the estimator's own refusal tells
                    _measured[study] = None
        return _measured[study]


_lock = threading.Lock()
_measured: weakref.WeakKeyDictionary[Study, MeasuredPass | None] = weakref.WeakKeyDictionary()


def said(seconds: float) -> str:
    """A time as a person reads it, in one unit: "under 0.1 s", "3 s", "2 min", "5 h", "3 days"."""
    if seconds < NOTICED:
        return f"under {NOTICED:g} s"
    if seconds < 9.95:
        return f"{seconds:.1g} s"
    for limit, unit, name in ((99, 1, "s"), (99 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:,.0f} days"


def said_mib(mib: float) -> str:
    """An amount of memory as a person reads it: "under 10 MiB", "30 MiB", "600 MiB", "2.1 GiB"."""
    if mib < 10:
        return "under 10 MiB"
    if mib < 1000:
        return f"{float(f'{mib:.2g}'):.0f} MiB"
    return f"{mib / 1024:,.1f} GiB"


def _measure(study: Study) -> MeasuredPass:
    return measure_passes(study, time.perf_counter)


def measure_passes(study: Study, clock: Callable[[], float]) -> MeasuredPass:
    """Time passes through a study's model.

    Args:
        study: only read; the passes run on copies of its model.
        clock: of the wall, or of the processor.

    Returns:
        Seconds of that clock.

    Raises:
        InvalidInput: where per-sample gradients are impossible.
    """
    ids = torch.arange(len(study.train))
    spread = [ids[:: max(1, len(ids) // count)][:count] for count in (FEW, min(MANY, len(ids)))]
    few, many = (len(some) for some in spread)
    model = copy.deepcopy(study.model)  # in eval mode: no batch statistics move, and dropout draws nothing
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)

    def some(count: int) -> torch.Tensor:
        return spread[0] if count == few else spread[1][:count]

    def forward(count: int) -> None:
        model_outputs(study.model, study.train, some(count))

    def backward(count: int) -> None:
        squared_norms(study.model, study.loss, study.train.subset(some(count)))

    def plain(count: int) -> None:
        inputs, labels = study.train.batch(some(count))
        step(model, optimiser, study.loss, inputs.to(study.device), labels.to(study.device))

    _, one = _fixed_and_each(forward, few, many, study.device, clock)
    sweep, own = _fixed_and_each(backward, few, many, study.device, clock, TRIED)
    begin, both = _fixed_and_each(plain, few, many, study.device, clock)
    first = parameters[0]
    square = torch.ones(MATRIX, MATRIX, dtype=first.dtype, device=first.device)
    product = min(_timed(lambda: square @ square, study.device, clock) for _ in range(REPEATS + 1))
    return MeasuredPass(one, own, both, sweep, begin, product / MATRIX**3)


def _fixed_and_each(
    run: Callable[[int], None], few: int, many: int, device: torch.device, clock: Callable[[], float], tried: int = 0
) -> tuple[float, float]:
    """Seconds before the first sample, and of each: the line through a short and a longer run, after a warm-up."""
    # by the wall the quickest run is the one that nobody disturbed; by the processor's clock, whose caches others empty
    # too, work takes what it takes on average
    settle: Callable[[list[float]], float] = min if clock is time.perf_counter else statistics.fmean
    run(few)
    short = _timed(partial(run, few), device, clock)
    if short > LONGEST or many <= few:  # a large model: so many passes are made, and nothing else counts
        each = short / (few + tried)
        return tried * each, each
    if short < BUDGET:
        short = settle([short, *(_timed(partial(run, few), device, clock) for _ in range(REPEATS - 1))])
    count, long = few, 0.0
    while count < many and long < BUDGET:  # more samples while that is quick, as a short run is mostly beginning
        count = min(GROWTH * count, many)
        long = _timed(partial(run, count), device, clock)
    if long < BUDGET:
        long = settle([long, *(_timed(partial(run, count), device, clock) for _ in range(REPEATS - 1))])
    each = max((long - short) / (count - few), 0.1 * long / count)  # noise must not make samples free
    return max(0.0, short - few * each), each


def _timed(run: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start
