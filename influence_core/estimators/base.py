"""The contract of an estimator: parameters in the constructor, work in ``fit``, ``Scores`` out.

A new estimator is a dataclass that derives from ``Estimator``, says what it needs, and overrides the private methods
of what its theory gives::

    @dataclass
    class MyEstimator(Estimator):
        name = "my_estimator"
        learned = ("features_",)                  # what fit sets and a file may hold
        strength: float = 1.0

        def _fit(self, study): ...                # learn; attributes end in an underscore
        def _influence(self, test_ids): ...       # -> Tensor [N, M], positive = helpful
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotFitted, NotSupported
from influence_core.estimators.answers import Answer, Changed, ParameterChange
from influence_core.estimators.changes import DataChange, checked_ids, data_change
from influence_core.estimators.saved import Allowed, Fitted, read, write
from influence_core.estimators.work import NUMBER, Work
from influence_core.measure import Cost, measure
from influence_core.models import linear_in_weights
from influence_core.parameters import check_numbers, check_types, plain
from influence_core.pieces import parts
from influence_core.scores import Coverage, Scale, ScoreKind, Scores
from influence_core.study import Study

GIVES = {
    "influence": "_influence",
    "self_influence": "_self_influence",
    "mislabel_scores": "_mislabel_scores",
    "label_influence": "_label_influence",
    "parameter_change": "_parameter_change",
}
"""Public method -> the private method that an estimator overrides to support it."""

KINDS: dict[str, ScoreKind] = {
    "influence": "influence",
    "self_influence": "self_influence",
    "mislabel_scores": "mislabel",
    "label_influence": "label_influence",
}
"""Public method -> the kind of scores that it gives."""

NEEDS = {"trajectory": "checkpoints", "validation": "a validation set"}
"""What ``needs`` may name -> what a person reads where a study has none."""

WEAK_INFLUENCE = {"influence": "Weak evidence: where models were retrained, its order followed them only a little."}
"""``evidence`` of methods whose influence on other images hardly ranks what retraining does, however they do else."""

_OWN = ("study_", "fit_cost_")


@dataclass
class Estimator(ABC):
    """Base of all estimators. Hyper-parameters are dataclass fields; learned attributes end in an underscore.

    Attributes:
        name: as in ``ic.estimators.get``.
        title: as a person reads it.
        paper: where the method comes from.
        good_for: one line on what it is good for, as far as this package measured it.
        needs: of "trajectory", "validation".
        for_classes: public methods, or "fit" for all of them, that need labels that are classes.
        cost: in forward and backward passes of one sample.
        solves_each_query: whether every test image costs a solve over the training set, not a share of one sweep.
        reasons: public method -> why the theory does not give it.
        by_rows: public methods whose score of a training image can be had without those of the others, once ``fit`` is
            done: what ``part`` gives. Their private methods pass over ``_scored`` in place of the training set, and
            take ``_of_scored`` of what was learned of its images.
        version: raised when the method's numbers change; results of another version are stale.
        scales: kind of scores -> "nats" or "probability"; "rank only" where not named. An influence in nats is a
            first-order change of the loss: ``Scores.caveats`` says on which models its size is right.
        scales_edits: whether ``parameter_change`` goes as far already as a hyper-parameter says, so that nothing else
            shortens it.
        evidence: kind of scores -> a sentence for ``Scores.caveats``, where they were measured to be weak evidence.
        exempt: check of ``ic.testing`` -> why the theory does not give what it asks for.
        learned: names of the attributes that ``fit`` sets; a file can set these and no others.
        learned_classes: dataclasses that a learned value may consist of, beside those of this package.
        former: hyper-parameter of an earlier version -> what to write instead.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    good_for: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    for_classes: ClassVar[frozenset[str]] = frozenset({"label_influence"})
    cost: ClassVar[str] = ""
    solves_each_query: ClassVar[bool] = False
    reasons: ClassVar[dict[str, str]] = {}
    by_rows: ClassVar[frozenset[str]] = frozenset()
    version: ClassVar[int] = 1
    scales: ClassVar[dict[str, Scale]] = {}
    scales_edits: ClassVar[bool] = False
    evidence: ClassVar[dict[str, str]] = {}
    exempt: ClassVar[dict[str, str]] = {}
    learned: ClassVar[tuple[str, ...]] = ()
    learned_classes: ClassVar[tuple[type, ...]] = ()
    former: ClassVar[dict[str, str]] = {}

    _rows: ClassVar[range | None] = None  # of training images: set on the copy that answers ``part``

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """Answer hyper-parameters of earlier versions with what to write instead.

        Raises:
            InvalidInput: if one is given.
        """
        for name in given:
            cls.check_former(name)
        return super().__new__(cls)

    @classmethod
    def check_former(cls, parameter: str) -> None:
        """Refuse a hyper-parameter that an earlier version had.

        Args:
            parameter: its name.

        Raises:
            InvalidInput: with what to write instead.
        """
        if parameter in cls.former:
            raise InvalidInput(f"{cls.__name__} has no parameter {parameter!r} any more: {cls.former[parameter]}")

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that make no sense; subclasses override ``_check_parameters``."""
        check_types(self)
        self._check_parameters()
        check_numbers(self)

    @classmethod
    def gives(cls) -> list[str]:
        """The public methods that this estimator supports."""
        return [public for public, private in GIVES.items() if getattr(cls, private) is not getattr(Estimator, private)]

    def get_params(self) -> dict[str, Any]:
        """Every hyper-parameter with its value."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def missing(self, study: Study, what: str | None = None) -> list[str]:
        """What a study lacks for this estimator with these hyper-parameters; nothing is fitted.

        Args:
            study: to be looked at.
            what: name of the public method that will be asked; by default ``fit`` alone is looked at, and some methods
                need more than that.

        Returns:
            A few words for each thing, such as "checkpoints" or "a validation set"; empty where nothing is missing.

        Raises:
            InvalidInput: if there is no such method.
            NotSupported: if the theory does not give it.

        Example:
            >>> import influence_core as ic
            >>> study = ic.demo.digits().replaced(validation=None)
            >>> cg = ic.estimators.ConjugateGradient()
            >>> cg.missing(study, "influence"), cg.missing(study, "mislabel_scores")
            ([], ['a validation set'])
        """
        self._check_given(what)
        lacking = [NEEDS[need] for need in sorted(self._needed(what)) if getattr(study, need) is None]
        if study.classes is None and self._needs_classes(what):
            lacking.append("class labels")
        return lacking or self._unsuited(study)

    def work(self, study: Study, what: str = "influence", tests: int = 1) -> tuple[Work, Work] | None:
        """What ``fit`` and then a call will have to do, as far as it can be known without doing it.

        Iterative solves are counted with a typical number of steps, at most with that which is allowed.

        Args:
            study: to be worked on, with all that is needed.
            what: name of the public method.
            tests: number of test images, or for ``parameter_change`` of training images that change.

        Returns:
            The work of ``fit``, and that of the call; ``None`` where the estimator does not say.

        Raises:
            InvalidInput: if there is no such method.
            NotSupported: if the theory does not give it.
        """
        self._check_given(what)
        fit = self._fit_work(study)
        call = None if fit is None else self._call_work(study, what, tests)
        return None if fit is None or call is None else (fit, call)

    def disk(self, study: Study) -> float:
        """Bytes that ``save`` will write, as far as it can be known before ``fit``; the study is not among them.

        Args:
            study: to be fitted on.

        Returns:
            Bytes.
        """
        return self._disk(study)

    def _check_given(self, what: str | None) -> None:
        if what is None or what in self.gives():
            return
        if what not in GIVES:
            raise InvalidInput(f"there is no method {what!r}; choose one of {', '.join(GIVES)}")
        raise self.lacks(what)

    def fit(self, study: Study) -> Self:
        """Do the work that does not depend on a test image.

        Args:
            study: a trained model with its datasets; it is not changed.

        Returns:
            The estimator itself. Fitting again forgets what was learned before, once the work is done: until then, and
            if it fails, the estimator answers as before. What is set on it meanwhile is lost.

        Raises:
            NotSupported: if the study lacks what the method needs.
            InvalidInput: if a weight or an input is NaN or infinite; the message names it.
        """
        self._check_needs(study)
        study.check_finite()
        fresh = copy.copy(self)
        for attribute in fresh._learned_names():
            delattr(fresh, attribute)
        with measure() as cost, parts("fit"):
            fresh._fit(study)
        fresh._belongs_to(study, cost)
        self.__dict__ = fresh.__dict__  # one assignment: no thread sees half of it
        return self

    def _learned_names(self) -> list[str]:
        """The attributes that ``fit`` set: they end in an underscore, and are no hyper-parameters."""
        parameters = {f.name for f in fields(self)}
        return [name for name in vars(self) if name.endswith("_") and name not in parameters]

    def _belongs_to(self, study: Study, cost: Cost) -> None:
        self.study_ = study
        self.fit_cost_ = cost

    def save(self, path: str | Path) -> None:
        """Write what was learned as one safetensors file, without pickling anything.

        Args:
            path: file to write.

        Raises:
            NotFitted: before ``fit``.
            NotSupported: if something that was learned cannot be written, or the study has parts that cannot be
                identified; the message names it.
        """
        mine = copy.copy(self)  # as it is now, whatever other threads fit
        if not hasattr(mine, "study_"):
            raise NotFitted(f"fit first: {type(self).__name__}(...).fit(study).save({str(path)!r})")
        learned = {name: getattr(mine, name) for name in mine._learned_names() if name not in _OWN}
        fitted = Fitted(self.name, _class_of(type(self)), mine.get_params(), learned, mine.fit_cost_)
        write(path, fitted, mine.study_, self._allowed())

    @classmethod
    def declared(cls) -> set[str]:
        """Names of all attributes that this estimator may learn, its bases' included."""
        return {name for base in cls.__mro__ for name in vars(base).get("learned", ())}

    @classmethod
    def load(cls, path: str | Path, study: Study) -> Self:
        """Read what ``save`` wrote; ``Estimator.load`` takes any estimator, a subclass only its own.

        Args:
            path: the file.
            study: the study that the estimator was fitted on; weights and data are not in the file twice.

        Returns:
            The fitted estimator.

        Raises:
            InvalidInput: if the file holds no such estimator.
            StaleResult: if it was fitted on another study, or by another version of the method.
        """
        fitted = read(path, study, lambda name: cls._named(name, path)._allowed())
        found = cls._named(fitted.name, path)
        if fitted.kind != _class_of(found):
            raise InvalidInput(
                f"{path} holds a {fitted.kind}, and {fitted.name!r} is a {_class_of(found)} here: load it by the class "
                "that saved it, or give that class a name of its own"
            )
        estimator = found(**fitted.parameters)
        for name, value in fitted.learned.items():
            setattr(estimator, name, value)
        estimator._belongs_to(study, fitted.cost)
        return cast(Self, estimator)

    @classmethod
    def _allowed(cls) -> Allowed:
        """What a file may set of this class: nothing that the class itself has, such as a method."""
        learned = frozenset(name for name in cls.declared() if not hasattr(cls, name))
        classes = [one for base in cls.__mro__ for one in vars(base).get("learned_classes", ())]
        parameters = frozenset(f.name for f in fields(cls))
        return Allowed(cls.title, parameters, learned, tuple(dict.fromkeys(classes)), cls.version)

    @classmethod
    def _named(cls, name: str, path: str | Path) -> type[Estimator]:
        """The class that a file names, which has to be this one unless this one is abstract."""
        if hasattr(cls, "name"):
            if cls.name != name:
                raise InvalidInput(
                    f"{path} holds the estimator {name!r}, not {cls.name!r}: use Estimator.load(path, study)"
                )
            return cls
        known = {c.name: c for c in all_estimators()}
        if name not in known:
            raise InvalidInput(f"{path} holds the estimator {name!r}, which is not known here: import its module first")
        if not issubclass(known[name], cls):
            raise InvalidInput(f"{path} holds a {known[name].__name__}, which is no {cls.__name__}")
        return known[name]

    def influence(self, test: int | Sequence[int] | Tensor | None = None) -> Scores:
        """Effect of each training image on the loss of test images.

        Args:
            test: ids of test images; all of them by default.

        Returns:
            Scores [N, M]. Positive: helpful, removing the training image raises the loss of the test image. That is
            meant of a mean loss that keeps its divisor N: a mean over the N - 1 images that are left gives each of them
            more weight beside the weight decay, which adds a small common change and so can turn the sign of small
            influences.

        Raises:
            NotSupported: if the theory does not give it; the message names estimators that do.
            InvalidInput: if an id is out of range.
        """
        return self._asked("influence")._scores_of("influence", test)

    def self_influence(self) -> Scores:
        """Effect of each training image on its own loss.

        Returns:
            Scores [N], not negative. Large: memorised.

        Raises:
            NotSupported: if the theory does not give it.
        """
        return self._asked("self_influence")._scores_of("self_influence")

    def mislabel_scores(self) -> Scores:
        """Suspicion that a training image is mislabelled.

        Returns:
            Scores [N]. Large: probably mislabelled.

        Raises:
            NotSupported: if the theory does not give it.
        """
        return self._asked("mislabel_scores")._scores_of("mislabel_scores")

    def label_influence(self) -> Scores:
        """How well each label would suit each training image.

        Returns:
            Scores [N, K]. The label with the largest value is the suggestion.

        Raises:
            NotSupported: if the theory does not give it.
        """
        return self._asked("label_influence")._scores_of("label_influence")

    def part(self, what: str, rows: range, test: int | Sequence[int] | Tensor | None = None) -> Scores:
        """The scores of some training images alone: rows of what the public method gives, to rounding.

        Solves and N stay those of the whole training set; the last pass over it, or what was learned of each of its
        images, is cut. Parts that do not overlap can so be computed anywhere, and put together.

        Args:
            what: public method, of ``by_rows``.
            rows: the training images, from the first to before the last: ``range(0, 1000)``.
            test: ids of test images, for "influence"; all of them by default.

        Returns:
            Scores [n, M], [n, K] or [n], whose ``train_ids`` are the rows.

        Raises:
            NotFitted: before ``fit``.
            NotSupported: if the method has no such parts, or the theory does not give it.
            InvalidInput: if rows or ids are out of range, or test ids are given where there are no test images.
        """
        self._check_given(what)
        asked = self._asked(what)
        if what not in self.by_rows:
            others = ", ".join(sorted(self.by_rows)) or "nothing"
            raise NotSupported(f"{self.title} gives {what} of the whole training set alone; by rows it gives {others}")
        size = len(asked.study_.train)
        if not isinstance(rows, range) or rows.step != 1 or not 0 <= rows.start < rows.stop <= size:
            raise InvalidInput(f"rows is {rows!r}; give training images one after the other, of range(0, {size})")
        if test is not None and what != "influence":
            raise InvalidInput(f"test is {test!r}, but {what} is about no test image: leave it out")
        vars(asked)["_rows"] = rows
        return asked._scores_of(what, test)

    def parameter_change(
        self,
        remove: int | Sequence[int] | Tensor | None = None,
        *,
        relabel: Mapping[int, int | str] | None = None,
        weight: Mapping[int, float] | None = None,
    ) -> ParameterChange:
        """How the weights would change if the training set did: ``study.edited(change)`` is the edited study.

        All that is asked for happens together; an image may get a new label and a new weight at once. The influence
        functions, SAM's and ``SAMGIF`` add up: the change for a mix is the sum of those for its parts, and a weight of
        2 is minus a removal. ``GIF``, ``FIF`` and ``PIF`` take the curvature of what is left, and do not. The mean loss
        keeps its divisor N, however many images are left: see ``estimators.changes`` before comparing with a training
        on fewer images.

        Args:
            remove: ids of training images to leave out.
            relabel: id -> new label, a number or a class name.
            weight: id -> new weight of the image's loss, 0 or more; every image has weight 1 until now, and 0 removes.

        Returns:
            Parameter name -> what to add to it, with ``meta``. Parameters that do not change are left out.

        Raises:
            NotSupported: if the theory does not give it; the message names estimators that do.
            InvalidInput: if an id, a label or a weight makes no sense, an id is given twice, or nothing changes.
        """
        asked = self._asked("parameter_change")
        study = asked.study_
        change = data_change(study.train, study.classes, remove, relabel, weight)
        with measure() as cost, parts("parameter_change"):
            found = asked._parameter_change(change)
        answer = found if isinstance(found, Changed) else Changed(found)
        what = {
            "removed": int(change.removed.sum()),
            "relabelled": int(change.relabelled.sum()),
            "reweighted": int(change.reweighted.sum()),
        }
        meta = asked._meta(cost, what | dict(answer.facts))
        return ParameterChange({name: delta.detach() for name, delta in answer.change.items()}, meta)

    @property
    def _scored(self) -> LabelledDataset:
        """The training images whose scores are asked for: all, or the rows of ``part``."""
        train = self.study_.train
        return train if self._rows is None else train.subset(self._scored_ids)

    @property
    def _scored_ids(self) -> Tensor:
        """Their ids, int64."""
        rows = self._rows or range(len(self.study_.train))
        return torch.arange(rows.start, rows.stop)

    def _of_scored(self, learned: Tensor) -> Tensor:
        """Their rows of what was learned of all training images, [N, ...]; a view."""
        return learned if self._rows is None else learned[self._rows.start : self._rows.stop]

    @abstractmethod
    def _fit(self, study: Study) -> None:
        """Learn what does not depend on a test image."""

    def _influence(self, test_ids: Tensor) -> Tensor | Answer:
        raise NotImplementedError

    def _self_influence(self) -> Tensor | Answer:
        raise NotImplementedError

    def _mislabel_scores(self) -> Tensor | Answer:
        raise NotImplementedError

    def _label_influence(self) -> Tensor | Answer:
        raise NotImplementedError

    def _parameter_change(self, change: DataChange) -> Mapping[str, Tensor] | Changed:
        raise NotImplementedError

    def _needed(self, what: str | None) -> frozenset[str]:
        """Of "trajectory" and "validation", what these settings need for a public method; ``None`` for ``fit``."""
        return self.needs

    def _needs_classes(self, what: str | None) -> bool:
        """Whether labels have to be classes for a public method; ``None`` for ``fit``."""
        return bool({"fit", what} & self.for_classes)

    def _unsuited(self, study: Study) -> list[str]:
        """What else ``fit`` will refuse the study for, as something that it lacks."""
        return []

    def _fit_work(self, study: Study) -> Work | None:
        """The work of ``fit``; ``None`` where it is not known."""
        return None

    def _call_work(self, study: Study, what: str, tests: int) -> Work | None:
        """The work of a public method after that; ``None`` where it is not known."""
        return None

    def _disk(self, study: Study) -> float:
        """Bytes of what ``fit`` learns: by default one number for each training image."""
        return float(NUMBER * len(study.train))

    def _check_parameters(self) -> None:
        """Raise ``InvalidInput`` for a hyper-parameter out of its range."""

    def _coverage(self) -> Coverage:
        """Share of the model that was used; everything unless overridden."""
        return Coverage()

    def _facts(self) -> dict[str, Any]:
        """What ``fit`` settled that a reader of any scores should know: damping, a radius. Becomes part of ``meta``.

        What a single call found, such as a solver's residual, travels with its values: see ``Answer``.

        Returns:
            Name -> plain value; ``warnings`` is a list of sentences.
        """
        return {}

    def _check_needs(self, study: Study) -> None:
        how = {
            "trajectory": "the checkpoints of its training: ic.Study(..., trajectory=ic.training.fit(model, train))",
            "validation": "a validation set with clean labels, apart from the test set: ic.Study(..., validation=...)",
        }
        if self._needs_classes(None):
            study.need_classes(self.title)
        for need in sorted(self.needs):
            if getattr(study, need) is None:
                others = _names([cls for cls in all_estimators() if need not in cls.needs])
                raise NotSupported(
                    f"{self.title} needs {how[need]}; the study {study.name!r} has none. Without it: {others}."
                )

    def _asked(self, public: str) -> Self:
        """The estimator as it is now, for one call to work on; refused where it cannot answer.

        The copy shares what was learned, and whatever a call notes on itself ends with the call: a fitted estimator
        does not change when it is asked, and one that is fitted anew meanwhile does not mix two fits.

        Args:
            public: name of the public method.

        Returns:
            The copy.

        Raises:
            NotFitted: before ``fit``.
            NotSupported: if the theory does not give it, or the labels are no classes and would have to be.
        """
        if public not in self.gives():
            raise self.lacks(public)
        if not hasattr(self, "study_"):
            raise NotFitted(f"fit first: {type(self).__name__}(...).fit(study).{public}()")
        if self._needs_classes(public):
            self.study_.need_classes(public)
        return copy.copy(self)

    def lacks(self, public: str, reason: str | None = None) -> NotSupported:
        """The refusal of a public method, naming those that have it.

        Args:
            public: name of the method.
            reason: why; by default what the class says in ``reasons``.

        Returns:
            The error, to be raised.
        """
        reason = reason or self.reasons.get(public, "its theory does not define it")
        others = _names([cls for cls in all_estimators() if public in cls.gives()])
        return NotSupported(
            f"{self.title} gives no {public.replace('_', ' ')}: {reason}. Estimators that do: {others}."
        )

    def _scores_of(self, what: str, test: int | Sequence[int] | Tensor | None = None) -> Scores:
        """What a public method answers, on the copy that ``_asked`` made."""
        study, kind, ids = self.study_, KINDS[what], None
        work: Callable[..., Tensor | Answer] = getattr(self, GIVES[what])
        if kind == "influence":
            size = len(study.test)
            ids = torch.arange(size) if test is None else checked_ids(test, size, "test")
        with measure() as cost, parts(what if self._rows is None else f"{what}/{self._rows.start}-{self._rows.stop}"):
            found = work() if ids is None else work(ids)
        answer = found if isinstance(found, Answer) else Answer(found)
        return Scores(
            values=answer.values.detach().cpu(),
            train_ids=self._scored_ids,
            kind=kind,
            scale=self.scales.get(kind, "rank only"),
            test_ids=ids,
            coverage=self._coverage(),
            meta=self._meta(cost, {**answer.facts, **self._trust(kind)}),
            train=study.train,
            test=study.test,
            study=study,
        )

    def _trust(self, kind: ScoreKind) -> dict[str, Any]:
        """Facts by which ``Scores.caveats`` says how far sizes and order can be believed."""
        facts: dict[str, Any] = {"evidence": self.evidence[kind]} if kind in self.evidence else {}
        if kind in ("influence", "self_influence") and self.scales.get(kind) == "nats":
            facts["linear"] = linear_in_weights(self.study_.model, self.study_.train.batch([0])[0])
        return facts

    def _meta(self, cost: Cost, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Where numbers come from: the estimator, what its fit settled, and what this call found."""
        settled = self._facts()
        said = [*settled.get("warnings", ()), *facts.get("warnings", ())]
        return {
            "estimator": self.name,
            "parameters": plain(self.get_params()),
            "study": self.study_.fingerprint,
            "seconds": cost.seconds,
            "fit_seconds": self.fit_cost_.seconds,
            "peak_memory_mib": _largest(cost.peak_memory_mib, self.fit_cost_.peak_memory_mib),
            "residual": None,
            **({"unidentified": self.study_.unidentified} if self.study_.unidentified else {}),
            **settled,
            **facts,
            **({"warnings": list(dict.fromkeys(said))} if said else {}),
        }


def _class_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _largest(*values: float | None) -> float | None:
    known = [v for v in values if v is not None]
    return max(known) if known else None


def all_estimators() -> list[type[Estimator]]:
    """The estimators of this package and those that others derived from ``Estimator``.

    Returns:
        The classes, sorted by name. One that states no ``name`` of its own is a variant of the class it derives from,
        and is not listed.
    """
    found: set[type[Estimator]] = set()
    waiting: list[type[Estimator]] = list(Estimator.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if "name" in vars(cls):
            found.add(cls)
    return sorted(found, key=lambda cls: cls.name)


def _names(classes: list[type[Estimator]]) -> str:
    return ", ".join(cls.__name__ for cls in classes) or "none yet"
