"""What an estimator will cost on this machine: processor seconds, memory and disk, from a few batches.

The passes of a study are timed once by the processor's clock, which other work on the machine hardly moves, and kept
under the machine's name in the user's cache, for models and inputs of the same kind.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.batches import FORWARD, batch_size_for
from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.cost import MeasuredPass, measure_passes
from influence_core.estimators.work import NUMBER, PRODUCT_BATCH, Work, parameters_of
from influence_core.files import write_whole
from influence_core.gradients import Samples, plain_attention, planned, select
from influence_core.inputs import Bundle, moved, parts_of
from influence_core.machine import busy, cache_folder, machine_name
from influence_core.models import private, structure_of
from influence_core.progress import listen
from influence_core.study import Study

SWEEP_MIB = 256.0
"""Budget of a sweep's batch, as in ``gradients.sweep``."""

RUN_MIB, CONVOLVED_MIB = 2.0, 15.0
"""What any work takes besides, and one with convolutions: buffers of threads and kernels."""

START = 0.15
"""Seconds of a first fit and call beside all that is counted: checks, fingerprints, kernels that are set up."""

_VERSION = 2
_lock = threading.RLock()


@dataclass(frozen=True)
class Calibration:
    """What passes through a model cost here.

    Attributes:
        passes: processor seconds.
        sweep_bytes: of a batch with per-sample gradients.
        forward_bytes: of a batch that keeps outputs alone.
        plain_bytes: of a sample of a batch of a training.
        machine: its name.
        measured: when, in seconds since 1970.
        disturbed: whether the machine was busy, so that the seconds are too many.
    """

    passes: MeasuredPass
    sweep_bytes: float
    forward_bytes: float
    plain_bytes: float
    machine: str
    measured: float
    disturbed: bool = False


@dataclass(frozen=True)
class Prediction:
    """What an estimator is expected to cost; ``None`` where nobody knows.

    Attributes:
        seconds: of processor time, fit and call together.
        memory_mib: at its most, beside the study.
        disk_mib: of the file that ``save`` writes.
    """

    seconds: float | None
    memory_mib: float | None
    disk_mib: float | None


def calibrated(study: Study, again: bool = False) -> Calibration | None:
    """Time a few batches of a study, or read what was timed on this machine for its kind.

    What a busy machine says is not kept: threads that wait for each other spin, which the processor's clock counts, up
    to a hundred times what the work takes.

    Args:
        study: only read.
        again: time, whatever is kept.

    Returns:
        The calibration; ``None`` where per-sample gradients are impossible.
    """
    with _lock:
        file = cache_folder() / "calibration" / f"{machine_name()}.json"
        key, kept = _kind_of(study), _read(file)
        if not again and (found := _parsed(kept.get(key))) is not None:
            return found
        disturbed = busy()
        with listen(lambda *_: None), torch.inference_mode(False):
            try:
                found = _measured(study)
            except InvalidInput:  # the model mixes samples, say; the estimator's own refusal tells
                return None
        if disturbed:
            return replace(found, disturbed=True)
        with suppress(OSError, InvalidInput):  # a cache that cannot be written is none
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps({**_read(file), key: asdict(found)}, indent=1).encode())
        return found


def predicted(
    study: Study, estimator: Estimator, what: str, tests: int = 1, calibration: Calibration | None = None
) -> Prediction:
    """What an estimator will cost, without starting it.

    Args:
        study: to be worked on, with all that the estimator needs.
        estimator: with its hyper-parameters, not fitted.
        what: name of the public method.
        tests: number of test images, or of training images that change.
        calibration: of the study, on the machine in question.

    Returns:
        The prediction.
    """
    disk = estimator.disk(study) / 2**20
    work = estimator.work(study, what, tests)
    if work is None or calibration is None:
        return Prediction(None, None, disk)
    whole = work[0] + work[1]
    if whole == Work(held=whole.held):
        return Prediction(0.0, memory_mib(study, whole, what, tests, calibration), disk)
    return Prediction(
        START + calibration.passes.seconds(whole), memory_mib(study, whole, what, tests, calibration), disk
    )


def memory_mib(study: Study, work: Work, what: str, tests: int, calibration: Calibration) -> float:
    """Memory of some work at its most, beside the study, in MiB."""
    train = len(study.train)
    batches = [0.0]
    if work.forward:
        batches.append(calibration.forward_bytes)
    if work.backward:
        batches.append(calibration.sweep_bytes)
    if work.plain:
        recipe = study.trajectory.recipe if study.trajectory is not None else None
        size = PRODUCT_BATCH if recipe is None or not recipe.batch_size else max(recipe.batch_size, 64)
        batches.append(calibration.plain_bytes * min(size, PRODUCT_BATCH, train) + 3 * NUMBER * parameters_of(study))
    columns = {"influence": tests, "label_influence": study.num_outputs}.get(what, 1)
    result = 2 * NUMBER * train * columns
    convolved = any(isinstance(module, nn.modules.conv._ConvNd) for module in study.model.modules())
    return RUN_MIB + convolved * CONVOLVED_MIB + (max(batches) + work.held + result) / 2**20


def _kind_of(study: Study) -> str:
    """The same for studies whose passes cost the same."""
    inputs = study.train.batch([0])[0]
    shapes = [(tuple(part.shape), str(part.dtype)) for part in parts_of(inputs)]
    trained = [name for name, p in study.model.named_parameters() if p.requires_grad]
    kind = next(study.model.parameters())
    parts = [
        _VERSION, structure_of(study.model).sha256, [tuple(p.shape) for p in study.model.parameters()], trained, shapes,
        study.num_outputs, str(kind.dtype), str(kind.device), torch.get_num_threads(), torch.__version__,
        min(len(study.train), 256), type(study.loss).__name__ + getattr(study.loss, "__qualname__", ""),
        type(study.train.root()[0]).__name__ if hasattr(study.train, "root") else "",
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _read(file: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(file.read_bytes())
        if isinstance(found, dict):
            return found
    return {}


def _parsed(facts: Any) -> Calibration | None:
    try:
        passes = {f.name: float(facts["passes"][f.name]) for f in fields(MeasuredPass)}
        sweep, forward, plain, measured = (
            float(facts[name]) for name in ("sweep_bytes", "forward_bytes", "plain_bytes", "measured")
        )
        return Calibration(MeasuredPass(**passes), sweep, forward, plain, str(facts["machine"]), measured)
    except (KeyError, TypeError, ValueError):  # none, or of another version
        return None


def _measured(study: Study) -> Calibration:
    passes = measure_passes(study, time.process_time if study.device.type == "cpu" else time.perf_counter)
    model = private(study.model)
    first = next(model.parameters())
    selection = select(model)
    with plain_attention():
        plan, _ = planned(model, selection, study.loss, Samples(study.train, None, first.device, first.dtype))
    sweep = plan.bytes_per_sample * batch_size_for(SWEEP_MIB, plan.bytes_per_sample, len(study.train))
    largest, total = _activations(study)
    forward = largest * min(FORWARD, len(study.train))
    return Calibration(passes, sweep, forward, 2 * total, machine_name(), time.time())


def _activations(study: Study) -> tuple[float, float]:
    """Bytes of one sample: of what goes into and comes out of the largest layer, and of all that layers give."""
    model = private(study.model)
    sizes: list[tuple[float, float]] = []

    def look(_: nn.Module, arguments: Any, output: Any) -> None:
        sizes.append((_bytes(arguments), _bytes(output)))

    for module in model.modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(look)
    kind = next(model.parameters())
    inputs = study.train.batch([0])[0]
    with torch.no_grad(), plain_attention():
        model(moved(inputs, kind.device, kind.dtype))
    own = float(sum(part.numel() * part.element_size() for part in parts_of(inputs)))
    return own + max((a + b for a, b in sizes), default=0.0), own + sum(b for _, b in sizes)


def _bytes(value: Any) -> float:
    if isinstance(value, Tensor):
        return float(value.numel() * value.element_size())
    if isinstance(value, Bundle):
        return sum(_bytes(part) for part in parts_of(value))
    if isinstance(value, (tuple, list)):
        return sum(_bytes(part) for part in value)
    return 0.0
