"""What an estimator learned as tensors, and JSON that says what they are. Nothing is ever pickled or looked up by name.

A learned value may be a tensor, a plain value, a list, tuple, set or dict of them, a copy of the study's model, or an
object of a class on an explicit list: those of ``LEARNABLE``, and what the estimator itself declares. What the study
already holds (its model, loss, datasets and checkpoints) is written as a reference, and taken from the study that a
file is loaded with. A file decides nothing beyond that: which attributes may be set, which classes may be made and
which types exist is decided here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.curvature import Ascent, Layer
from influence_core.curvature.inverses import (
    CholeskyInverse,
    ConjugateGradients,
    DenseInverse,
    DiagonalInverse,
    InverseSpec,
    KroneckerInverse,
    LeadingEigenpairs,
    MeanOfInverses,
    MovingAscent,
    NeumannSeries,
    NystromInverse,
    Probes,
)
from influence_core.errors import InvalidInput, NotSupported
from influence_core.models import load_weights
from influence_core.scores import Coverage
from influence_core.study import SPLITS, Study
from influence_core.training import Recipe, Sharpness

LEARNABLE: tuple[type, ...] = (
    Ascent,
    CholeskyInverse,
    ConjugateGradients,
    Coverage,
    DenseInverse,
    DiagonalInverse,
    InverseSpec,
    KroneckerInverse,
    Layer,
    LeadingEigenpairs,
    MeanOfInverses,
    MovingAscent,
    NeumannSeries,
    NystromInverse,
    Probes,
    Recipe,
    Sharpness,
)
"""Dataclasses of this package that may be a learned value or a hyper-parameter, or part of one."""

_STUDY_PARTS = ("model", "loss", "trajectory", *SPLITS)
_DTYPES = {str(t).removeprefix("torch."): t for t in vars(torch).values() if isinstance(t, torch.dtype)}
_DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")


class Writer:
    """Turns learned values into JSON, and puts the tensors among them aside.

    Args:
        study: that the estimator was fitted on.
        classes: dataclasses that may be written, beside ``LEARNABLE``.
        title: of the estimator, for messages.

    Attributes:
        tensors: name -> tensor, of everything written so far.
    """

    def __init__(self, study: Study, classes: Sequence[type] = (), title: str = "the estimator") -> None:
        self.study, self.title = study, title
        self.tensors: dict[str, Tensor] = {}
        self._names = {cls: name for name, cls in _by_name(classes).items()}
        self._modules: list[tuple[nn.Module, str]] = []

    def encode(self, value: Any, where: str) -> Any:
        """JSON of a value.

        Args:
            value: to write.
            where: its name; tensors in it get names that begin with it.

        Returns:
            What ``json.dumps`` takes.

        Raises:
            NotSupported: if it is none of what may be written; the message names it.
        """
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if type(value) is list:
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
        if isinstance(value, Mapping):
            pairs = enumerate(value.items())
            return {
                "dict": [[self.encode(k, f"{where}/key{i}"), self.encode(v, f"{where}/{k}")] for i, (k, v) in pairs]
            }
        if type(value) in (tuple, set, frozenset):
            return {type(value).__name__: [self.encode(v, f"{where}/{i}") for i, v in enumerate(value)]}
        if isinstance(value, (torch.dtype, torch.device)):
            return {type(value).__name__: str(value).removeprefix("torch.")}
        if type(value) in self._names:
            state = {f.name: self.encode(getattr(value, f.name), f"{where}/{f.name}") for f in fields(value)}
            return {"object": self._names[type(value)], "state": state}
        raise self._cannot(value, where)

    def _reference(self, value: Any) -> Any:
        if value is self.study:
            return {"study": ""}
        for part in _STUDY_PARTS:
            if value is getattr(self.study, part):
                return {"study": part}
        for index, checkpoint in enumerate(self.study.trajectory or ()):
            if checkpoint is value:
                return {"checkpoint": index}
        if isinstance(value, nn.Module):
            for path, module in self.study.model.named_modules():
                if module is value:
                    return {"submodule": path}
        return None

    def _module(self, value: nn.Module, where: str) -> Any:
        for module, name in self._modules:
            if module is value:
                return {"same": name}
        state = value.state_dict()
        if type(value) is not type(self.study.model) or state.keys() != self.study.model.state_dict().keys():
            raise self._cannot(value, where)
        self._modules.append((value, where))
        weights = {name: self.encode(tensor, f"{where}/{name}") for name, tensor in state.items()}
        return {"module": where, "state": weights}

    def _cannot(self, value: Any, where: str) -> NotSupported:
        return NotSupported(
            f"{self.title} cannot be saved: its attribute {where} is a {type(value).__name__}; tensors, plain values, "
            "lists, dicts, copies of the study's model and dataclasses that the estimator names in 'learned_classes' "
            "can be"
        )


class Reader:
    """Turns JSON into values again.

    Args:
        study: to take references from.
        tensors: name -> tensor, of the file.
        classes: dataclasses that may be made, beside ``LEARNABLE``.
    """

    def __init__(self, study: Study, tensors: Mapping[str, Tensor], classes: Sequence[type] = ()) -> None:
        self._study, self._tensors, self._classes = study, tensors, _by_name(classes)
        self._modules: dict[str, nn.Module] = {}
        self._kinds: dict[str, Callable[[Any], Any]] = {
            "tensor": self._tensor,
            "study": self._part,
            "checkpoint": self._checkpoint,
            "submodule": self._submodule,
            "same": lambda name: self._modules[name],
            "dict": lambda pairs: {self.decode(k): self.decode(v) for k, v in pairs},
            "tuple": lambda items: tuple(self.decode(v) for v in items),
            "set": lambda items: {self.decode(v) for v in items},
            "frozenset": lambda items: frozenset(self.decode(v) for v in items),
            "dtype": self._dtype,
            "device": self._device,
        }

    def decode(self, value: Any) -> Any:
        """The value that some JSON stands for.

        Args:
            value: from ``Writer.encode``, through a file that anybody may have changed.

        Returns:
            The value.

        Raises:
            InvalidInput: if it asks for a class or a kind of value that is on no list.
        """
        if isinstance(value, list):
            return [self.decode(v) for v in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"object", "state"}:
            return self._object(value["object"], value["state"])
        if value.keys() == {"module", "state"}:
            return self._module(value["module"], value["state"])
        if len(value) != 1 or not value.keys() <= self._kinds.keys():
            raise InvalidInput(f"the file holds a value of the kind {', '.join(map(str, value))}, which there is not")
        ((kind, inner),) = value.items()
        return self._kinds[kind](inner)

    def _tensor(self, name: Any) -> Tensor:
        return self._tensors[name].to(self._study.device)

    def _part(self, part: Any) -> Any:
        if part == "":
            return self._study
        if part not in _STUDY_PARTS:
            raise InvalidInput(f"the file asks for the study's {part!r}; a study has {', '.join(_STUDY_PARTS)}")
        return getattr(self._study, part)

    def _checkpoint(self, index: Any) -> Any:
        checkpoints = list(self._study.trajectory or ())
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(checkpoints):
            raise InvalidInput(f"the file asks for checkpoint {index!r}; the study has {len(checkpoints)}")
        return checkpoints[index]

    def _submodule(self, path: Any) -> nn.Module:
        modules = dict(self._study.model.named_modules())
        if not isinstance(path, str) or path not in modules:
            raise InvalidInput(f"the file asks for the module {path!r}, which the study's model has not")
        return modules[path]

    @staticmethod
    def _dtype(name: Any) -> torch.dtype:
        if name not in _DTYPES:
            raise InvalidInput(f"the file asks for the number type {name!r}, which torch has not")
        return _DTYPES[name]

    @staticmethod
    def _device(name: Any) -> torch.device:
        if not isinstance(name, str) or name.partition(":")[0] not in _DEVICES:
            raise InvalidInput(f"the file asks for the device {name!r}, which torch has not")
        return torch.device(name)

    def _module(self, where: Any, state: Mapping[str, Any]) -> nn.Module:
        tensors = {name: self.decode(tensor) for name, tensor in state.items()}
        self._modules[where] = load_weights(copy.deepcopy(self._study.model), tensors, "the saved estimator")
        return self._modules[where]

    def _object(self, name: Any, state: Mapping[str, Any]) -> Any:
        if not isinstance(name, str) or name not in self._classes:
            raise InvalidInput(f"the file asks for {name}, which is none of {', '.join(sorted(self._classes))}")
        cls = self._classes[name]
        if state.keys() != {f.name for f in fields(cls)}:
            raise InvalidInput(f"the file holds a {name} with {', '.join(sorted(state))}; another version wrote it")
        return cls(**{n: self.decode(v) for n, v in state.items()})


def _by_name(classes: Sequence[type]) -> dict[str, type]:
    """Every class on the lists by its name.

    Args:
        classes: beside ``LEARNABLE``.

    Returns:
        Name -> class.

    Raises:
        TypeError: for a class that is no dataclass, which could do anything when it is made, or a name that is taken.
    """
    found: dict[str, type] = {}
    for cls in (*LEARNABLE, *classes):
        if not isinstance(cls, type) or not is_dataclass(cls):
            raise TypeError(f"{cls!r} is no dataclass, so it cannot be a learned value")
        if found.setdefault(cls.__name__, cls) is not cls:
            raise TypeError(f"two classes of learned values are called {cls.__name__}; rename one")
    return found
