"""One call from a question to its stored answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.store.request import Request
from influence_core.store.result import Result
from influence_core.store.store import Store
from influence_core.study import Study

RESULTS = "results"
"""Folder beside a study file with the answers that came with it."""


def run(
    study: Study,
    estimator: str | type[Estimator] | Estimator,
    what: str = "influence",
    test: int | Sequence[int] | Tensor | None = None,
    *,
    remove: int | Sequence[int] | Tensor | None = None,
    relabel: Mapping[int, int | str] | None = None,
    weight: Mapping[int, float] | None = None,
    store: Store | None = None,
    runner: Literal["local"] = "local",
) -> Result:
    """Ask an estimator, and keep the answer: whoever asks the same again finds it.

    The answer is computed a shard of the training images at a time, each kept as a file once it is finished, and so
    are parts of a fit that take long. A call that is broken off goes on there when it is made again, in this process or
    another one. ``estimator.fit(study).influence(...)`` does the same without keeping anything.

    Args:
        study: that it is about.
        estimator: name, class or object; an object's hyper-parameters count, not what it has learned.
        what: public method: "influence", "self_influence", "mislabel_scores", "label_influence" or
            "parameter_change".
        test: ids of test images, for "influence"; all by default.
        remove: for "parameter_change", as there.
        relabel: likewise.
        weight: likewise.
        store: where it is kept; by default ``ic.store.Store()``, beside what came with the study.
        runner: "local" computes what is missing in this process; ``ic.jobs.submit`` does so in one of its own.

    Returns:
        The ``Scores`` of the public method, with values that are read from the disk when they are looked at, or the
        ``ParameterChange``. ``meta["stored"]`` is the key of the answer.

    Raises:
        InvalidInput: if an argument makes no sense, or a file cannot be written.
        NotSupported: if the theory or the study does not give it.

    Example:
        >>> import tempfile
        >>> import influence_core as ic
        >>> store = ic.store.Store(tempfile.mkdtemp())
        >>> scores = ic.run(ic.demo.digits(), "lastlayer", "influence", test=[17], store=store)
        >>> scores.values.shape, ic.run(ic.demo.digits(), "lastlayer", test=[17], store=store).meta["stored"][:1] != ""
        (torch.Size([1000, 1]), True)
    """
    if runner != "local":
        raise InvalidInput(f"there is no runner {runner!r}; 'local' computes here, ic.jobs.submit in another process")
    request = Request.of(study, estimator, what, test, remove=remove, relabel=relabel, weight=weight)
    return (Store(also=beside(study)) if store is None else store).compute(request)


def beside(study: Study) -> tuple[Path, ...]:
    """Stores that came with a study: a folder ``results`` beside its file, which is only read from.

    Args:
        study: loaded from a file, or in memory alone.

    Returns:
        What ``Store(also=...)`` takes.
    """
    folder = None if study.file is None else study.file.parent / RESULTS
    return () if folder is None or not folder.is_dir() else (folder,)
