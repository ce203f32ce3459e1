"""Several models trained anew as one piece of work: what a person asked for in one go.

Each training is an answer of its own, under the key that it has wherever else it is asked for. This task only says
which ones they are: it is done once all of them are in the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.identity import identify
from influence_core.progress import counted
from influence_core.store.place import Shard
from influence_core.store.retrainings import function_of, module_of
from influence_core.store.task import FORMAT, Task, check_current, key_of
from influence_core.store.training import Training
from influence_core.store.training_set import TrainingSet
from influence_core.study import Study

if TYPE_CHECKING:
    from influence_core.estimators import Estimator


@dataclass(frozen=True, eq=False)
class Trainings(Task):
    """Models trained anew, all by one function.

    Attributes:
        study: that they are about.
        members: the trainings, in the order in which they are made.
        purpose: what they are for, in a few words for a person.
        origin: where a person sees what they are for, in words of the program that asked; it names nothing.
    """

    study: Study
    members: Sequence[Training]
    purpose: str = "Training again"
    origin: Mapping[str, str] = field(default_factory=dict)
    what: str = field(default="trainings", init=False)
    test: None = field(default=None, init=False)
    estimator: None = field(default=None, init=False)
    noun: ClassVar[str] = "training"
    here: ClassVar[str] = "train in this process, store.compute(trainings)"

    def __post_init__(self) -> None:
        """Check the trainings."""
        if not self.members:
            raise InvalidInput("there are no trainings: give at least one")
        if any(one.study is not self.study for one in self.members) or len({one.retrain for one in self.members}) > 1:
            raise InvalidInput("trainings that are asked for in one go are about one study, and one function trains")

    @property
    def retrain(self) -> str:
        """Name of the function that trains."""
        return self.members[0].retrain

    @property
    def module(self) -> str:
        """The module of the function."""
        return module_of(self.retrain)

    @cached_property
    def _sets(self) -> dict[TrainingSet, int]:
        """The different training sets, with their numbers."""
        return {one: number for number, one in enumerate(dict.fromkeys(m.training_set for m in self.members))}

    @cached_property
    def about(self) -> dict[str, Any]:
        """Which trainings they are, as JSON; no image is read for it."""
        return {
            "format": FORMAT,
            "study": self.study.fingerprint,
            "what": self.what,
            "sets": [one.sha256 for one in self._sets],
            "trainings": [[self._sets[one.training_set], one.seed, one.keep] for one in self.members],
            "retrain": self.retrain,
            "code": identify(function_of(self.retrain), self.retrain).sha256,
        }

    @property
    def title(self) -> str:
        """What is asked, for a person."""
        sizes = {len(one.data) for one in self.members}
        most = f"{'up to ' if len(sizes) > 1 else ''}{counted(max(sizes), 'image')}"
        return f"{self.purpose}: {counted(len(self.members), self.noun)} of {most}"

    @property
    def is_change(self) -> bool:
        """The answers are no rows of numbers."""
        return True

    def shards(self) -> list[range]:
        """One a training."""
        return [range(number, number + 1) for number in range(len(self.members))]

    def compute(self, estimator: Estimator | None, rows: range) -> Shard:
        """Train one model; a store lets the training do it, which keeps it."""
        return self.members[rows.start].compute(None, range(1))

    def answer(self, values: Tensor, ids: Tensor, facts: Mapping[str, Any]) -> Any:
        """There are no rows.

        Raises:
            NotSupported: always.
        """
        raise NotSupported("trainings are no table of scores")

    def column_names(self, shape: tuple[int, ...]) -> list[str]:
        """None."""
        return []

    def spec(self) -> dict[str, Any]:
        """The task as plain JSON, from which ``from_spec`` makes it again in another process.

        Returns:
            Plain values.

        Raises:
            NotSupported: if a training set is no change of the study's own.
        """
        for one in self._sets:
            one.check()
        described = {"described": [one.facts() for one in self._sets]}
        return {**self.about, **described, "purpose": self.purpose, "origin": dict(self.origin)}

    @classmethod
    def from_spec(cls, study: Study, spec: Mapping[str, Any]) -> Trainings:
        """Make a task again.

        Args:
            study: the same one.
            spec: from ``spec``.

        Returns:
            The task, with the same key.

        Raises:
            StaleResult: if the study, or the code of the function, is another one by now.
            InvalidInput: if this is no spec.
        """
        try:
            check_current(study, spec["study"])
            retrain, sets = str(spec["retrain"]), [TrainingSet.from_facts(one) for one in spec["described"]]
            data = [one.data(study.train) for one in sets]
            members = [
                Training(study, data[n], int(seed), retrain, sets[n].factors(len(data[n])), bool(keep))
                for n, seed, keep in spec["trainings"]
            ]
            found = cls(study, members, str(spec["purpose"]), dict(spec["origin"]))
            extra = ("described", "purpose", "origin")
            wanted = key_of({name: value for name, value in spec.items() if name not in extra})
        except (KeyError, TypeError, IndexError) as error:
            raise InvalidInput(f"this describes no trainings of this version: {error!r}") from error
        if found.key != wanted:
            raise StaleResult(f"the code that trains is another one than when {found.title!r} was asked for: ask again")
        return found
