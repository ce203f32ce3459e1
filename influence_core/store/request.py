"""A piece of work: a question to an estimator about a study, named by all that its answer depends on."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.estimators import Estimator, all_estimators, get
from influence_core.estimators.changes import checked_ids, data_change
from influence_core.estimators.state import Reader, Writer
from influence_core.identity import add_tensor, check_identified, identify
from influence_core.scores import Coverage, Scores
from influence_core.store.place import Shard
from influence_core.store.task import FORMAT, Task, check_current, key_of
from influence_core.study import Study

LEAST_ROWS, MOST_ROWS, SHARDS = 128, 1024, 64
"""Training images of a shard at least and at most, and how many shards are meant to be between."""

ROWS_EACH = 4
"""Training images of a shard for each test image at least: the gradients of those are taken again for each shard."""

_CHANGES = ("remove", "relabel", "weight")
_WORDS = {
    "self_influence": "self-influence",
    "mislabel_scores": "mislabel scores",
    "label_influence": "influence of each label",
    "parameter_change": "change of the weights",
}


@dataclass(frozen=True, eq=False)
class Request(Task):
    """A question whose answer can be stored: made by ``Request.of``.

    Attributes:
        study: that it is about.
        estimator: with its hyper-parameters; it need not be fitted.
        what: public method.
        test: ids of test images, for "influence".
        change: ``remove``, ``relabel`` and ``weight`` of ``parameter_change``, checked.
        in_one: whether it is answered in one go, which is quicker where it does not take long; see ``whole``.
    """

    study: Study
    estimator: Estimator
    what: str
    test: tuple[int, ...] | None = None
    change: Mapping[str, Any] = field(default_factory=dict)
    in_one: bool = False

    @classmethod
    def of(
        cls,
        study: Study,
        estimator: str | type[Estimator] | Estimator,
        what: str,
        test: int | Sequence[int] | Tensor | None = None,
        *,
        remove: int | Sequence[int] | Tensor | None = None,
        relabel: Mapping[int, int | str] | None = None,
        weight: Mapping[int, float] | None = None,
    ) -> Request:
        """Check a question before anything is computed.

        Args:
            study: that it is about.
            estimator: name, class or object; an object's hyper-parameters count, and not what it has learned.
            what: public method: "influence", "self_influence", "mislabel_scores", "label_influence" or
                "parameter_change".
            test: ids of test images, for "influence" alone; all by default.
            remove: for "parameter_change", as there.
            relabel: likewise.
            weight: likewise.

        Returns:
            The request.

        Raises:
            InvalidInput: if there is no such method or id, or an argument belongs to another method.
            NotSupported: if the theory does not give it, the study lacks what it needs, or parts of the study cannot
                be identified, so that nobody could say later what the answer belongs to.
        """
        asked = _fresh(estimator)
        missing = asked.missing(study, what)
        if missing:
            raise NotSupported(f"{asked.title} needs {' and '.join(missing)}; the study {study.name!r} has none")
        check_identified(study.unidentified, f"what {asked.title} says of it")
        given = {
            name: value for name, value in zip(_CHANGES, (remove, relabel, weight), strict=True) if value is not None
        }
        if given and what != "parameter_change":
            raise InvalidInput(f"{' and '.join(given)} belong to 'parameter_change'; {what!r} was asked for")
        if test is not None and what != "influence":
            raise InvalidInput(f"test images belong to 'influence'; {what!r} was asked for")
        ids: tuple[int, ...] | None = None
        if what == "influence":
            size = len(study.test)
            ids = tuple((torch.arange(size) if test is None else checked_ids(test, size, "test")).tolist())
        return cls(study, asked, what, ids, _checked_change(study, given) if what == "parameter_change" else {})

    @cached_property
    def _encoded(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        writer = Writer(self.study, self.estimator._allowed().classes, self.estimator.title)
        parameters = {n: writer.encode(v, f"parameters/{n}") for n, v in self.estimator.get_params().items()}
        return parameters, writer.tensors

    @cached_property
    def about_fit(self) -> dict[str, Any]:
        """What the fitted estimator depends on, as JSON."""
        parameters, tensors = self._encoded
        cls = type(self.estimator)
        facts = {
            "format": FORMAT,
            "study": self.study.fingerprint,
            "estimator": self.estimator.name,
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "parameters": parameters,
            "tensors": {name: _hash(tensor) for name, tensor in tensors.items()},
            "version": cls.version,
        }
        if cls.__module__.partition(".")[0] != "influence_core":  # nobody raises its version when its code changes
            facts["code"] = identify(cls, cls.__name__).sha256
        return facts

    @cached_property
    def about(self) -> dict[str, Any]:
        """All that the answer depends on, as JSON."""
        test = None if self.test is None else list(self.test)
        return {**self.about_fit, "what": self.what, "test": test, "change": dict(self.change)}

    @property
    def title(self) -> str:
        """What is asked, for a person."""
        words = _WORDS.get(self.what, self.what.replace("_", " "))
        if self.test is not None:
            count = len(self.test)
            words = f"influence on {f'test image {self.test[0]}' if count == 1 else f'{count:,} test images'}"
        return f"{self.estimator.title}: {words}"

    @property
    def by_rows(self) -> bool:
        """Whether it is answered a part of the training images at a time."""
        return not self.in_one and self.what in self.estimator.by_rows

    def whole(self) -> Request:
        """The same request, of the same key, answered in one shard.

        What is quick has nothing to lose, makes one pass instead of many, and shares it with others (``Meeting``).

        Returns:
            The request.
        """
        return replace(self, in_one=True)

    def shards(self) -> list[range]:
        """The training images of each shard; one shard holds what is answered as a whole."""
        count = len(self.study.train)
        if not self.by_rows:
            return [range(count)]
        rows = min(MOST_ROWS, max(LEAST_ROWS, -(-count // SHARDS)))
        rows = max(rows, ROWS_EACH * len(self.test or ()))
        return [range(begin, min(begin + rows, count)) for begin in range(0, count, rows)]

    def column_names(self, shape: tuple[int, ...]) -> list[str]:
        """What the columns of its scores are called in a table."""
        if self.test is not None:
            return [f"test_{i}" for i in self.test]
        return ["score"] if len(shape) == 1 else [f"label_{k}" for k in range(shape[1])]

    def spec(self) -> dict[str, Any]:
        """The request as plain JSON, from which ``from_spec`` makes it again in another process."""
        data = {name: _text(tensor) for name, tensor in self._encoded[1].items()}
        return {**self.about, "data": data}

    @classmethod
    def from_spec(cls, study: Study, spec: Mapping[str, Any]) -> Request:
        """Make a request again.

        Args:
            study: the same one.
            spec: from ``spec``.

        Returns:
            The request, with the same key.

        Raises:
            StaleResult: if the study, or the code of the estimator, is another one by now.
            InvalidInput: if the estimator is not known here, or this is no spec.
        """
        try:
            found, wanted = cls._made_again(study, spec)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise InvalidInput(f"this describes no request of this version: {error!r}") from error
        if found.key != wanted:
            raise StaleResult(
                f"{found.title}: the estimator's code or version is another one than when it was asked for"
            )
        return found

    @classmethod
    def _made_again(cls, study: Study, spec: Mapping[str, Any]) -> tuple[Request, str]:
        check_current(study, spec["study"])
        known = {one.name: one for one in all_estimators()}
        if spec["estimator"] not in known:
            raise InvalidInput(f"the estimator {spec['estimator']!r} is not known here: load its plugin first")
        kind = known[spec["estimator"]]
        tensors = {name: _tensor(text) for name, text in spec["data"].items()}
        reader = Reader(study, tensors, kind._allowed().classes)
        estimator = kind(**{name: reader.decode(value) for name, value in spec["parameters"].items()})
        test = None if spec["test"] is None else tuple(spec["test"])
        found = cls(study, estimator, spec["what"], test, dict(spec["change"]))
        return found, key_of({name: value for name, value in spec.items() if name != "data"})

    @property
    def module(self) -> str:
        """The module of the estimator."""
        return type(self.estimator).__module__

    @property
    def is_change(self) -> bool:
        """Whether a change of the weights is asked for."""
        return self.what == "parameter_change"

    def compute(self, estimator: Estimator | None, rows: range) -> Shard:
        """Ask a fitted estimator about some training images."""
        assert estimator is not None
        if self.is_change:
            change = estimator.parameter_change(**self.arguments())
            return Shard(dict(change), {"meta": change.meta})
        if self.by_rows:
            scores = estimator.part(self.what, rows, **self.arguments())
        else:
            scores = getattr(estimator, self.what)(**self.arguments())
        facts = {
            "kind": scores.kind,
            "scale": scores.scale,
            "coverage": [scores.coverage.parameters, scores.coverage.gradient_norm],
            "meta": dict(scores.meta),
        }
        return Shard({"values": scores.values}, facts)

    def answer(self, values: Tensor, ids: Tensor, facts: Mapping[str, Any]) -> Scores:
        """Scores of some training images, as the estimator itself would give them."""
        # what is known of its evidence by now is said of answers of before as well
        known = self.estimator.evidence.get(facts["kind"])
        return Scores(
            values=values,
            train_ids=ids,
            kind=facts["kind"],
            scale=facts["scale"],
            test_ids=None if self.test is None else torch.tensor(self.test),
            coverage=Coverage(*facts["coverage"]),
            meta={**facts["meta"], **({"evidence": known} if known else {})},
            train=self.study.train,
            test=self.study.test,
            study=self.study,
        )

    def arguments(self) -> dict[str, Any]:
        """What the public method is called with."""
        if self.what == "influence":
            return {"test": list(self.test or ())}
        given: dict[str, Any] = {}
        for name, value in self.change.items():
            given[name] = value if name == "remove" else {int(key): one for key, one in value}
        return given


def _fresh(estimator: str | type[Estimator] | Estimator) -> Estimator:
    """An estimator with the same hyper-parameters, not fitted."""
    if isinstance(estimator, str):
        return get(estimator)
    if isinstance(estimator, type) and issubclass(estimator, Estimator):
        return estimator()
    if not isinstance(estimator, Estimator):
        raise InvalidInput(f"{estimator!r} is no estimator: give a name such as 'ekfac', a class, or an object of one")
    return type(estimator)(**estimator.get_params())


def _checked_change(study: Study, given: Mapping[str, Any]) -> dict[str, Any]:
    """The change in plain values, in one order."""
    data_change(study.train, study.classes, **{name: given.get(name) for name in _CHANGES})  # refuses what is wrong
    found: dict[str, Any] = {}
    if "remove" in given:
        found["remove"] = sorted(torch.as_tensor(given["remove"]).flatten().tolist())
    if "relabel" in given:
        names = study.class_names
        found["relabel"] = sorted(
            [int(i), names.index(label) if isinstance(label, str) else int(label)]
            for i, label in given["relabel"].items()
        )
    if "weight" in given:
        found["weight"] = sorted([int(i), float(weight)] for i, weight in given["weight"].items())
    return found


def _hash(tensor: Tensor) -> str:
    digest = hashlib.sha256()
    add_tensor(digest, tensor)
    return digest.hexdigest()


def _text(tensor: Tensor) -> list[Any]:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return [
        str(tensor.dtype).removeprefix("torch."),
        list(tensor.shape),
        base64.b64encode(flat.numpy().tobytes()).decode(),
    ]


def _tensor(text: Sequence[Any]) -> Tensor:
    dtype, shape, data = text
    numbers = torch.frombuffer(bytearray(base64.b64decode(data)), dtype=torch.uint8)
    kind = getattr(torch, dtype)
    if not isinstance(kind, torch.dtype):
        raise InvalidInput(f"a request names the number type {dtype!r}, which torch has not")
    return numbers.view(kind).reshape(shape)
