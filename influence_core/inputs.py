"""What goes into a model: a tensor, or several tensors that belong together, such as token ids and their mask.

A ``Bundle`` stands wherever a batch ``[B, ...]`` could: it has a length, is sliced, indexed and moved like one tensor,
and the model is called as ``model(*parts)`` or ``model(**parts)`` (``influence_core.models.adapted``). So nothing but
this module knows of what a sample consists. Labels may be bundles too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from influence_core.errors import InvalidInput


class Bundle:
    """Tensors with one leading axis, the samples: positional arguments of a model, or named ones.

    Args:
        parts: tensors ``[B, ...]`` in order, or by name; at least one.

    Attributes:
        names: of the parts, or ``None`` where they have none.
        parts: the tensors.

    Raises:
        InvalidInput: if there is none, one is no tensor, or they disagree about B.

    Example:
        >>> words = Bundle({"ids": torch.tensor([[1, 2], [3, 0]]), "mask": torch.tensor([[1, 1], [1, 0]])})
        >>> len(words), words[1:]["ids"].tolist()
        (2, [[3, 0]])
    """

    __slots__ = ("names", "parts")

    def __init__(self, parts: Sequence[Tensor] | Mapping[str, Tensor]) -> None:
        named = isinstance(parts, Mapping)
        self.names: tuple[str, ...] | None = tuple(map(str, parts)) if named else None
        self.parts: tuple[Tensor, ...] = tuple(parts.values() if isinstance(parts, Mapping) else parts)
        for name, part in zip(self._titles(), self.parts, strict=True):
            if not isinstance(part, Tensor):
                raise InvalidInput(f"the inputs' {name} is a {type(part).__name__}; expected tensors [samples, ...]")
        if len({part.shape[:1] for part in self.parts}) != 1:
            raise InvalidInput(f"the inputs {self!r} have no common first axis; expected tensors [samples, ...] each")

    @classmethod
    def _of(cls, names: tuple[str, ...] | None, parts: Iterable[Any]) -> Bundle:
        """The same names with other parts, which are not looked at: inside ``torch.func`` they are no plain tensors."""
        made = cls.__new__(cls)
        made.names, made.parts = names, tuple(parts)
        return made

    def _titles(self) -> tuple[str, ...]:
        return tuple(f"part {i}" for i in range(len(self.parts))) if self.names is None else self.names

    @property
    def args(self) -> tuple[Tensor, ...]:
        """Positional arguments."""
        return self.parts if self.names is None else ()

    @property
    def kwargs(self) -> dict[str, Tensor]:
        """Arguments by name."""
        return {} if self.names is None else dict(zip(self.names, self.parts, strict=True))

    def __len__(self) -> int:
        """Number of samples B."""
        return len(self.parts[0])

    def __getitem__(self, key: Any) -> Any:
        """A part by its name, or of all parts the samples that an index, a slice or a tensor of ids picks."""
        if isinstance(key, str):
            if key not in self.kwargs:
                raise KeyError(f"{key!r}; there are {', '.join(self._titles())}")
            return self.kwargs[key]
        return Bundle._of(self.names, (part[key] for part in self.parts))

    def __repr__(self) -> str:
        """Names and shapes."""
        found = [f"{n} {tuple(getattr(p, 'shape', ()))}" for n, p in zip(self._titles(), self.parts, strict=True)]
        return f"Bundle({', '.join(found) or 'nothing'})"

    def __reduce__(self) -> tuple[Any, ...]:
        """What ``copy`` and ``pickle`` call."""
        return Bundle._of, (self.names, self.parts)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Bundle:
        """All parts on a device, and those of floating-point numbers in a type."""
        return Bundle._of(self.names, (p.to(device, dtype if p.is_floating_point() else None) for p in self.parts))

    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Part -> shape of one sample and type."""
        return {n: (tuple(p.shape[1:]), p.dtype) for n, p in zip(self._titles(), self.parts, strict=True)}


pytree.register_pytree_node(
    Bundle, lambda bundle: (list(bundle.parts), bundle.names), lambda parts, names: Bundle._of(names, parts)
)

Inputs = Tensor | Bundle
"""A batch: ``[B, ...]``, or several such tensors."""


def as_inputs(given: Any) -> Inputs:
    """What a dataset or its ``collate`` gave, as a batch.

    Args:
        given: a tensor, a bundle, or a tuple, list or mapping of tensors ``[B, ...]``.

    Returns:
        The batch.

    Raises:
        InvalidInput: if it is nothing of these.
    """
    if isinstance(given, Tensor | Bundle):
        return given
    if isinstance(given, Mapping | tuple | list) and len(given):
        return Bundle(given)
    raise InvalidInput(
        f"the inputs are a {type(given).__name__}; expected a tensor, or a tuple or a mapping of tensors [samples, ...]"
    )


def parts_of(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors of a batch."""
    return inputs.parts if isinstance(inputs, Bundle) else (inputs,)


def shapes_of(inputs: Inputs) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Part -> shape of one sample and type; a tensor is called "inputs"."""
    return inputs.shapes() if isinstance(inputs, Bundle) else {"inputs": (tuple(inputs.shape[1:]), inputs.dtype)}


def moved(inputs: Inputs, device: torch.device | str, dtype: torch.dtype | None = None) -> Inputs:
    """A batch on a device, its floating-point numbers in a type."""
    if isinstance(inputs, Bundle):
        return inputs.to(device, dtype)
    return inputs.to(device, dtype if inputs.is_floating_point() else None)


def concatenated(batches: Sequence[Inputs]) -> Inputs:
    """Batches one after the other; their samples have equal shapes."""
    first = batches[0]
    if isinstance(first, Bundle):
        columns = zip(*(parts_of(one) for one in batches), strict=True)
        return Bundle._of(first.names, (torch.cat(column) for column in columns))
    return torch.cat([one for one in batches if isinstance(one, Tensor)])


def stacked(samples: Sequence[Any]) -> Inputs:
    """The inputs of single samples as a batch: what ``collate`` does where the user gives none.

    Args:
        samples: a tensor, a number, or a tuple, list or mapping of such, of each sample.

    Returns:
        The batch.

    Raises:
        InvalidInput: if samples differ in shape or in their parts.
    """
    first = samples[0]
    if isinstance(first, Bundle):
        return Bundle._of(first.names, (_stacked([s.parts[i] for s in samples]) for i in range(len(first.parts))))
    if isinstance(first, Mapping):
        if any(not isinstance(sample, Mapping) or set(sample) != set(first) for sample in samples):
            raise InvalidInput(f"some samples have other inputs than {', '.join(map(str, first))}: give all the same")
        return Bundle({str(name): _stacked([sample[name] for sample in samples]) for name in first})
    if isinstance(first, tuple | list):
        if any(len(sample) != len(first) for sample in samples):
            raise InvalidInput(f"some samples have another number of inputs than {len(first)}: give all the same")
        return Bundle([_stacked(column) for column in zip(*samples, strict=True)])
    return _stacked(samples)


def _stacked(values: Sequence[Any]) -> Tensor:
    tensors = [torch.as_tensor(value) for value in values]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise InvalidInput(
            f"samples of shapes {one} and {other} make no batch: pass collate=function(list of samples), which pads "
            "them and gives a mask, to ic.data.SampleSet"
        )
    return torch.stack(tensors)


def single(sample: Any) -> Any:
    """One sample as a batch of one; also inside ``torch.func``."""
    return pytree.tree_map(lambda part: part.unsqueeze(0), sample)


def with_factors(labels: Inputs, factors: Tensor) -> Bundle:
    """Labels of any kind with a number for each sample; ``without_factors`` takes them apart.

    Args:
        labels: [B, ...].
        factors: [B].

    Returns:
        Both.
    """
    if isinstance(labels, Tensor):
        return Bundle({"": labels, _FACTOR: factors})
    return Bundle((*labels.parts, factors) if labels.names is None else {**labels.kwargs, _FACTOR: factors})


def without_factors(both: Bundle) -> tuple[Inputs, Tensor]:
    """What ``with_factors`` was given."""
    *parts, factors = both.parts
    if both.names is not None and both.names[0] == "":
        return parts[0], factors
    return Bundle._of(None if both.names is None else both.names[:-1], parts), factors


_FACTOR = "factor of the loss"
