"""A fitted estimator as one safetensors file: tensors, and JSON that says what they are. Nothing is ever pickled.

Learned attributes may be tensors, plain values, lists, tuples and dicts of them, modules of the study's architecture,
and objects of classes of this package or of the estimator's own. What the study already holds (its model, loss,
datasets and checkpoints) is written as a reference, and taken from the study that the file is loaded with.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput, NotFitted, NotSupported, StaleResult
from influence_core.measure import Cost
from influence_core.models import load_tensors, load_weights, read_facts, save_tensors
from influence_core.study import SPLITS, Study
from influence_core.training import Checkpoint

if TYPE_CHECKING:
    from influence_core.estimators.base import Estimator

_OWN = ("study_", "fit_cost_")
_STUDY_PARTS = ("model", "loss", "trajectory", *SPLITS)


def save(estimator: Estimator, path: str | Path) -> None:
    """Write a fitted estimator.

    Args:
        estimator: to write.
        path: the file.

    Raises:
        NotFitted: if it was not fitted.
    """
    if not hasattr(estimator, "study_"):
        raise NotFitted(f"fit first: {type(estimator).__name__}(...).fit(study).save({str(path)!r})")
    writer = _Writer(estimator)
    learned = {n: v for n, v in vars(estimator).items() if n.endswith("_") and n not in _OWN}
    facts = {
        "name": estimator.name,
        "study": estimator.study_.fingerprint,
        "parameters": {n: writer.encode(v, f"parameters/{n}") for n, v in estimator.get_params().items()},
        "learned": {n: writer.encode(v, n) for n, v in learned.items()},
        "cost": [estimator.fit_cost_.seconds, estimator.fit_cost_.peak_memory_mib],
    }
    save_tensors(path, writer.tensors, {"estimator": json.dumps(facts)})


def load(cls: type[Estimator], path: str | Path, study: Study) -> Estimator:
    """Read what ``save`` wrote.

    Args:
        cls: the class to expect; the abstract ``Estimator`` takes any that is registered.
        path: the file.
        study: the study that the estimator was fitted on.

    Returns:
        The fitted estimator.

    Raises:
        InvalidInput: if the file holds no such estimator.
        StaleResult: if it was fitted on another study.
    """
    tensors, facts = load_tensors(path), read_facts(path, "estimator")
    if facts is None:
        raise InvalidInput(f"{path} holds no estimator; write one with estimator.fit(study).save(path)")
    try:
        found = _class(cls, facts["name"], path)
        if facts["study"] != study.fingerprint:
            raise StaleResult(
                f"{path} holds a {found.__name__} that was fitted on another study (fingerprint "
                f"{facts['study'][:12]}, this one has {study.fingerprint[:12]}): fit it again on {study.name!r}"
            )
        reader = _Reader(found, study, tensors)
        parameters = {n: reader.decode(v) for n, v in facts["parameters"].items()}
        unknown = sorted(parameters.keys() - {f.name for f in fields(found)})
        if unknown:
            raise InvalidInput(f"{path} has the parameter {unknown[0]!r}, which {found.__name__} has not: fit it again")
        estimator = found(**parameters)
        for name, value in facts["learned"].items():
            setattr(estimator, name, reader.decode(value))
        estimator.fit_cost_ = Cost(*facts["cost"])
    except (KeyError, TypeError, AttributeError, ImportError, IndexError) as error:
        raise InvalidInput(f"{path} is not what Estimator.save of this version writes: {error!r}") from error
    estimator.study_ = study
    return estimator


def _class(cls: type[Estimator], name: str, path: str | Path) -> type[Estimator]:
    if hasattr(cls, "name"):
        if cls.name != name:
            raise InvalidInput(
                f"{path} holds the estimator {name!r}, not {cls.name!r}: use Estimator.load(path, study)"
            )
        return cls
    from influence_core.estimators.registry import all_estimators

    known = {c.name: c for c in all_estimators()}
    if name not in known:
        raise InvalidInput(f"{path} holds the estimator {name!r}, which is not known here: import its module first")
    return known[name]


def _roots(cls: type) -> set[str]:
    return {"influence_core", cls.__module__.partition(".")[0]}


class _Writer:
    """Turns values into JSON, and puts the tensors among them aside."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator, self.study = estimator, estimator.study_
        self.tensors: dict[str, Tensor] = {}

    def encode(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return [self.encode(v, f"{where}/{i}") for i, v in enumerate(value)]
        if isinstance(value, Tensor):
            while where in self.tensors:  # a key may hold a slash of its own
                where += "+"
            self.tensors[where] = value
            return {"tensor": where}
        reference = self._reference(value)
        if reference is not None:
            return reference
        if isinstance(value, nn.Module):
            return self._module(value, where)
        if isinstance(value, Mapping) and type(value) is dict:
            pairs = enumerate(value.items())
            return {
                "dict": [[self.encode(k, f"{where}/key{i}"), self.encode(v, f"{where}/{k}")] for i, (k, v) in pairs]
            }
        if type(value) in (tuple, set, frozenset):
            return {type(value).__name__: [self.encode(v, f"{where}/{i}") for i, v in enumerate(value)]}
        if isinstance(value, (torch.dtype, torch.device)):
            return {type(value).__name__: str(value).removeprefix("torch.")}
        return self._object(value, where)

    def _reference(self, value: Any) -> Any:
        if value is self.study:
            return {"study": ""}
        for part in _STUDY_PARTS:
            if value is getattr(self.study, part):
                return {"study": part}
        if isinstance(value, Checkpoint):
            for index, checkpoint in enumerate(self.study.trajectory or ()):
                if checkpoint is value:
                    return {"checkpoint": index}
        return None

    def _module(self, value: nn.Module, where: str) -> Any:
        state = value.state_dict()
        if type(value) is not type(self.study.model) or state.keys() != self.study.model.state_dict().keys():
            raise self._cannot(value, where)
        return {"module": {name: self.encode(tensor, f"{where}/{name}") for name, tensor in state.items()}}

    def _object(self, value: Any, where: str) -> Any:
        cls = type(value)
        inside = cls.__module__.partition(".")[0] in _roots(type(self.estimator))
        if not inside or "<locals>" in cls.__qualname__ or not hasattr(value, "__dict__") or _is_code(value):
            raise self._cannot(value, where)
        state = {name: self.encode(v, f"{where}/{name}") for name, v in vars(value).items()}
        return {"object": f"{cls.__module__}:{cls.__qualname__}", "state": state}

    def _cannot(self, value: Any, where: str) -> NotSupported:
        return NotSupported(
            f"{self.estimator.title} cannot be saved: its attribute {where} is a {type(value).__name__}; tensors, "
            "plain values, lists, dicts, copies of the study's model and objects of the estimator's own package can be"
        )


def _is_code(value: Any) -> bool:
    """Whether a value is a function or a class, so code rather than data."""
    return isinstance(value, type) or (callable(value) and hasattr(value, "__code__"))


class _Reader:
    """Turns JSON into values again; only classes of known packages are made, without running their constructors."""

    def __init__(self, cls: type, study: Study, tensors: Mapping[str, Tensor]) -> None:
        self.study, self.tensors, self.roots = study, tensors, _roots(cls)
        self.kinds: dict[str, Callable[[Any], Any]] = {
            "tensor": lambda name: self.tensors[name].to(study.device),
            "study": lambda part: getattr(study, part) if part in _STUDY_PARTS else study,
            "checkpoint": lambda index: (study.trajectory or ())[index],
            "module": self._module,
            "dict": lambda pairs: {self.decode(k): self.decode(v) for k, v in pairs},
            "tuple": lambda items: tuple(self.decode(v) for v in items),
            "set": lambda items: {self.decode(v) for v in items},
            "frozenset": lambda items: frozenset(self.decode(v) for v in items),
            "dtype": lambda name: getattr(torch, name),
            "device": torch.device,
        }

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(v) for v in value]
        if not isinstance(value, dict):
            return value
        if "object" in value:
            return self._object(value["object"], value["state"])
        ((kind, inner),) = value.items()
        return self.kinds[kind](inner)

    def _module(self, state: Mapping[str, Any]) -> nn.Module:
        tensors = {name: self.decode(tensor) for name, tensor in state.items()}
        return load_weights(copy.deepcopy(self.study.model), tensors, "the saved estimator")

    def _object(self, path: str, state: Mapping[str, Any]) -> Any:
        module, _, name = path.partition(":")
        if module.partition(".")[0] not in self.roots:
            raise InvalidInput(f"the file asks for {path}, which is no class of {' or '.join(sorted(self.roots))}")
        cls: Any = importlib.import_module(module)
        for part in name.split("."):
            cls = getattr(cls, part)
        if not isinstance(cls, type):
            raise InvalidInput(f"the file asks for {path}, which is no class")
        made: Any = object.__new__(cls)
        made.__dict__.update({n: self.decode(v) for n, v in state.items()})
        return made
