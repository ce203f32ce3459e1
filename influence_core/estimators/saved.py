"""A fitted estimator as one safetensors file. What may be in it is decided by the class, not by the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influence_core.errors import InfluenceError, InvalidInput, NotSupported, StaleResult
from influence_core.estimators.state import Reader, Writer
from influence_core.identity import check_identified
from influence_core.measure import Cost
from influence_core.models import load_tensors, read_facts, save_tensors
from influence_core.study import Study


@dataclass(frozen=True)
class Allowed:
    """What a class lets a file set.

    Attributes:
        title: of the class, for messages.
        parameters: names of its hyper-parameters.
        learned: names of the attributes that its ``fit`` may set.
        classes: dataclasses that a learned value may consist of, beside those of this package.
        version: of the numbers that it gives; those of another one are stale.
    """

    title: str
    parameters: frozenset[str]
    learned: frozenset[str]
    classes: tuple[type, ...]
    version: int = 1


@dataclass(frozen=True)
class Fitted:
    """What there is to write of a fitted estimator.

    Attributes:
        name: of the estimator.
        kind: its class, module included: a variant without a name of its own is another one than its base.
        parameters: hyper-parameter -> value.
        learned: attribute -> value.
        cost: of the fit.
    """

    name: str
    kind: str
    parameters: Mapping[str, Any]
    learned: Mapping[str, Any]
    cost: Cost


def write(path: str | Path, fitted: Fitted, study: Study, allowed: Allowed) -> None:
    """Write a fitted estimator, without pickling anything.

    Args:
        path: file to write.
        fitted: the estimator.
        study: that it was fitted on; what the study holds is written as a reference.
        allowed: of its class.

    Raises:
        NotSupported: if something that was learned is not declared or cannot be written, or the study has parts that
            cannot be identified; the message names it.
    """
    check_identified(study.unidentified, f"this {allowed.title}")
    undeclared = sorted(fitted.learned.keys() - allowed.learned)
    if undeclared:
        raise NotSupported(
            f"{allowed.title} cannot be saved: it learned {undeclared[0]!r}, which its class does not declare. A file "
            f"may only set what is declared: learned: ClassVar[tuple[str, ...]] = ({undeclared[0]!r},)"
        )
    writer = Writer(study, allowed.classes, allowed.title)
    facts = {
        "name": fitted.name,
        "class": fitted.kind,
        "version": allowed.version,
        "study": study.fingerprint,
        "parameters": {n: writer.encode(v, f"parameters/{n}") for n, v in fitted.parameters.items()},
        "learned": {n: writer.encode(v, n) for n, v in fitted.learned.items()},
        "cost": [fitted.cost.seconds, fitted.cost.peak_memory_mib],
    }
    save_tensors(path, writer.tensors, {"estimator": json.dumps(facts)})


def read(path: str | Path, study: Study, allows: Callable[[str], Allowed]) -> Fitted:
    """Read what ``write`` wrote.

    Args:
        path: the file.
        study: that the estimator was fitted on.
        allows: from an estimator's name to what its class lets a file set; refuses names that are not expected.

    Returns:
        The parts of the estimator.

    Raises:
        InvalidInput: if the file holds no such estimator.
        StaleResult: if it was fitted on another study, or by another version of the method.
    """
    # A file's tensors lie wherever they do in it, and products of unaligned ones round differently.
    tensors = {name: tensor.clone() for name, tensor in load_tensors(path, sealed=True).items()}
    facts = read_facts(path, "estimator")
    if facts is None:
        raise InvalidInput(f"{path} holds no estimator; write one with estimator.fit(study).save(path)")
    with _as_saved_by_this_version(path):
        allowed = allows(facts["name"])
        if facts["study"] != study.fingerprint:
            raise StaleResult(
                f"{path} holds a {allowed.title} that was fitted on another study (fingerprint {facts['study'][:12]}, "
                f"this one has {study.fingerprint[:12]}): fit it again on {study.name!r}"
            )
        version = facts.get("version", 1)
        if version != allowed.version:
            raise StaleResult(
                f"{path} holds version {version} of {allowed.title}, whose numbers are not those of version "
                f"{allowed.version} here: fit it again"
            )
        for name in facts["parameters"]:
            if name not in allowed.parameters:
                raise InvalidInput(f"{path} has the parameter {name!r}, which {allowed.title} has not: fit it again")
        for name in facts["learned"]:
            if name not in allowed.learned:
                raise InvalidInput(f"{path} holds {name!r}, which {allowed.title} does not learn: fit it again")
        reader = Reader(study, tensors, allowed.classes)
        parameters = {name: reader.decode(value) for name, value in facts["parameters"].items()}
        learned = {name: reader.decode(value) for name, value in facts["learned"].items()}
        seconds, memory = facts["cost"]
        return Fitted(
            facts["name"],
            str(facts["class"]),
            parameters,
            learned,
            Cost(float(seconds), None if memory is None else float(memory)),
        )


@contextmanager
def _as_saved_by_this_version(path: str | Path) -> Iterator[None]:
    """Whatever a changed file makes the reader trip over is refused in a sentence."""
    try:
        yield
    except InfluenceError:
        raise
    except Exception as error:
        raise InvalidInput(f"{path} is not what Estimator.save of this version writes: {error!r}") from error
