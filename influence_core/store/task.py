"""A piece of work that is stored: what it is named by, how it is cut, and how a part of it is computed."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from influence_core.errors import StaleResult
from influence_core.estimators.answers import ParameterChange
from influence_core.store.place import Shard
from influence_core.study import Study

if TYPE_CHECKING:
    from influence_core.estimators import Estimator

FORMAT = 1
"""Of what is stored; another one makes other keys."""


class Task(ABC):
    """A piece of work, named by all that its answer depends on.

    Attributes:
        study: that it is about.
        what: is asked: a public method of an estimator, "retraining", "training" or "trainings".
        test: ids of the test images that the columns of the answer are about; ``None`` where they are about none.
        estimator: that is fitted first, with its hyper-parameters; ``None`` where nothing is.
        members: tasks that it consists of, each of which has an answer of its own in the store; none where it is
            computed itself.
        noun: what a person calls a member.
        here: how it is done in this process, for a message that no other one can.
    """

    study: Study
    what: str
    test: tuple[int, ...] | None
    estimator: Estimator | None
    members: Sequence[Task] = ()
    noun: ClassVar[str] = "part"
    here: ClassVar[str] = 'ask in this process, ic.run(..., runner="local")'

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """All that the answer depends on, as JSON."""

    @property
    def about_fit(self) -> dict[str, Any]:
        """What the fitted estimator depends on, as JSON; empty where nothing is fitted."""
        return {}

    @property
    @abstractmethod
    def title(self) -> str:
        """What is asked, for a person."""

    @abstractmethod
    def shards(self) -> list[range]:
        """The rows of each shard; one shard holds what is answered as a whole."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """The task as plain JSON, from which another process makes it again."""

    @abstractmethod
    def compute(self, estimator: Estimator | None, rows: range) -> Shard:
        """Compute a shard.

        Args:
            estimator: fitted, where there is one.
            rows: of the shard.
        """

    @abstractmethod
    def answer(self, values: Tensor, ids: Tensor, facts: Mapping[str, Any]) -> Any:
        """Numbers as the person who asked gets them.

        Args:
            values: [n] or [n, columns].
            ids: of the rows, int64 [n].
            facts: ``meta``, and what else ``compute`` gave.
        """

    @abstractmethod
    def column_names(self, shape: tuple[int, ...]) -> list[str]:
        """What the columns are called in a table."""

    @property
    def module(self) -> str:
        """The module that has to be imported before the task can be made again."""
        return "influence_core"

    @property
    def is_change(self) -> bool:
        """Whether the answer is a change of the weights, or other tensors by name, and no rows of numbers."""
        return False

    def answer_tensors(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Any:
        """Tensors as the person who asked gets them, where the answer is no rows of numbers.

        Args:
            tensors: name -> tensor, on the CPU.
            meta: about them.

        Returns:
            The change of the weights, unless a task makes something else of them.
        """
        return ParameterChange({name: tensor.to(self.study.device) for name, tensor in tensors.items()}, meta)

    @cached_property
    def key(self) -> str:
        """Name of the answer: 32 hexadecimal digits, the same in every process."""
        return key_of(self.about)

    @cached_property
    def family(self) -> str:
        """Name of all answers that are about other test images and the same in all else."""
        return key_of({**self.about, "test": None})

    @cached_property
    def fit_key(self) -> str:
        """Name of the fitted estimator: 32 hexadecimal digits."""
        return key_of(self.about_fit)


def key_of(facts: Mapping[str, Any]) -> str:
    """The name of what some facts say."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def check_current(study: Study, fingerprint: str) -> None:
    """Refuse what was asked of a study that is another one by now.

    Args:
        study: as it is.
        fingerprint: of the one that was asked about.

    Raises:
        StaleResult: if it is not that one.
    """
    if fingerprint != study.fingerprint:
        raise StaleResult(
            f"this was asked of another study (fingerprint {fingerprint[:12]}, {study.name!r} has "
            f"{study.fingerprint[:12]}): ask again"
        )
