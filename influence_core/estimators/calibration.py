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

from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.cost import MeasuredPass, measure_passes
from influence_core.estimators.memory import BatchSizes, batch_sizes, memory_mib
from influence_core.estimators.work import Work
from influence_core.files import write_whole
from influence_core.inputs import parts_of
from influence_core.machine import busy, cache_folder, machine_name
from influence_core.models import structure_of
from influence_core.progress import listen
from influence_core.study import Study

START = 0.15
"""Seconds of a first fit and call beside all that is counted: checks, fingerprints, kernels that are set up."""

_VERSION = 3
_lock = threading.RLock()


@dataclass(frozen=True)
class Calibration:
    """What passes through a model cost here.

    Attributes:
        passes: processor seconds.
        sizes: bytes of batches.
        machine: its name.
        measured: when, in seconds since 1970.
        disturbed: whether the machine was busy, so that the seconds are too many.
    """

    passes: MeasuredPass
    sizes: BatchSizes
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
    seconds = 0.0 if whole == Work(held=whole.held) else START + calibration.passes.seconds(whole)
    return Prediction(seconds, memory_mib(study, whole, what, tests, calibration.sizes), disk)


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
        sizes = {f.name: float(facts["sizes"][f.name]) for f in fields(BatchSizes)}
        when = float(facts["measured"])
        return Calibration(MeasuredPass(**passes), BatchSizes(**sizes), str(facts["machine"]), when)
    except (KeyError, TypeError, ValueError):  # none, or of another version
        return None


def _measured(study: Study) -> Calibration:
    passes = measure_passes(study, time.process_time if study.device.type == "cpu" else time.perf_counter)
    return Calibration(passes, batch_sizes(study), machine_name(), time.time())
