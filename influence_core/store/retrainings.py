"""Models trained anew on parts of the training set, one subset a shard: leave-one-out, datamodelling, removal."""

from __future__ import annotations

import base64
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.identity import add_tensor, check_identified, identify
from influence_core.measure import measure
from influence_core.models import dataset_losses
from influence_core.pieces import piece
from influence_core.store.place import Shard
from influence_core.store.task import FORMAT, Task, key_of
from influence_core.study import Study
from influence_core.training import train_fresh

if TYPE_CHECKING:
    from influence_core.estimators import Estimator

Retrain = Callable[[Study, Tensor, int], nn.Module]

RECIPE = "recipe"
"""The name of training as the study's own recipe says."""


def by_recipe(study: Study, kept: Tensor, seed: int) -> nn.Module:
    """Train a new model on some training images with the recipe of the study.

    Args:
        study: whose architecture, loss and recipe are used.
        kept: ids of the training images, int64.
        seed: of the weights and of the order of the batches.

    Returns:
        The model, in eval mode.
    """
    recipe = recipe_of(study)
    return train_fresh(study.model, study.train.subset(kept), recipe, seed=seed, loss=study.loss)


@dataclass(frozen=True)
class Losses:
    """What retrainings answer.

    Attributes:
        values: mean loss of each test image over the seeds, float64 [S, M].
        ids: of the subsets, int64 [S].
        meta: seeds, seconds and the key of the answer.
    """

    values: Tensor
    ids: Tensor
    meta: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Retrainings(Task):
    """Losses of test images after training on subsets of the training set.

    Attributes:
        study: that it is about.
        kept: which training images each subset keeps, bool [S, N].
        retrain: "recipe", or ``module:function`` of a ``retrain(study, kept, seed)`` that can be imported.
        test: ids of test images.
        seeds: one model each for a subset.
    """

    study: Study
    kept: Tensor
    retrain: str
    test: tuple[int, ...]
    seeds: tuple[int, ...]
    what: str = field(default="retraining", init=False)
    estimator: None = field(default=None, init=False)

    @classmethod
    def of(
        cls, study: Study, retrain: str | Retrain, kept: Tensor, test: Sequence[int], seeds: Sequence[int]
    ) -> Retrainings:
        """Check what is asked.

        Args:
            study: that it is about.
            retrain: "recipe", a function that another process can import, or its name ``module:function``.
            kept: bool [S, N].
            test: ids of test images.
            seeds: one model each.

        Returns:
            The task.

        Raises:
            NotSupported: if the function has no name by which another process finds it.
        """
        check_identified(study.unidentified, "losses of models trained anew")
        name = name_of(retrain)
        found = cls(study, kept.detach().cpu(), name, tuple(test), tuple(seeds))
        found.function()
        return found

    def function(self) -> Retrain:
        """Find the function that trains.

        Returns:
            The function.

        Raises:
            InvalidInput: if there is none of that name.
        """
        return function_of(self.retrain)

    @property
    def module(self) -> str:
        """The module of the function."""
        return module_of(self.retrain)

    @cached_property
    def about(self) -> dict[str, Any]:
        """All that the losses depend on, as JSON."""
        digest = hashlib.sha256()
        add_tensor(digest, self.kept)
        return {
            "format": FORMAT,
            "study": self.study.fingerprint,
            "what": self.what,
            "kept": digest.hexdigest(),
            "retrain": self.retrain,
            "code": identify(self.function(), self.retrain).sha256,
            "test": list(self.test),
            "seeds": list(self.seeds),
        }

    @property
    def title(self) -> str:
        """What is asked, for a person."""
        return f"Retraining on {len(self.kept)} subsets"

    def shards(self) -> list[range]:
        """One subset each."""
        return [range(number, number + 1) for number in range(len(self.kept))]

    def column_names(self, shape: tuple[int, ...]) -> list[str]:
        """Of the test images."""
        return [f"test_{i}" for i in self.test]

    def compute(self, estimator: Estimator | None, rows: range) -> Shard:
        """Train the models of one subset; each is a piece."""
        kept = self.kept[rows.start].nonzero().flatten()
        ids, retrain = torch.tensor(self.test), self.function()

        def losses(seed: int) -> dict[str, Tensor]:
            model = retrain(self.study, kept, seed).eval()
            return {"losses": dataset_losses(model, self.study.loss, self.study.test, ids).double()}

        total = torch.zeros(len(ids), dtype=torch.float64)
        with measure() as cost:
            for number, seed in enumerate(self.seeds):
                found = piece(f"subset-{rows.start}/model-{number}-seed-{seed}", lambda seed=seed: losses(seed))  # type: ignore[misc]
                total += found["losses"]
        facts = {"seconds": cost.seconds, "peak_memory_mib": cost.peak_memory_mib, "seeds": list(self.seeds)}
        return Shard({"values": total[None] / len(self.seeds)}, {"meta": facts})

    def answer(self, values: Tensor, ids: Tensor, facts: Mapping[str, Any]) -> Losses:
        """The losses of some subsets."""
        return Losses(values, ids, facts["meta"])

    def spec(self) -> dict[str, Any]:
        """The task as plain JSON, from which ``from_spec`` makes it again in another process."""
        bits = np.packbits(self.kept.numpy())
        return {**self.about, "masks": [list(self.kept.shape), base64.b64encode(bits.tobytes()).decode()]}

    @classmethod
    def from_spec(cls, study: Study, spec: Mapping[str, Any]) -> Retrainings:
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
            shape, text = spec["masks"]
            bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[: shape[0] * shape[1]]
            kept = torch.from_numpy(bits.astype(bool)).reshape(shape)
            found = cls(study, kept, str(spec["retrain"]), tuple(spec["test"]), tuple(spec["seeds"]))
            wanted = key_of({name: value for name, value in spec.items() if name != "masks"})
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InvalidInput(f"this describes no retrainings of this version: {error!r}") from error
        if found.key != wanted:
            raise StaleResult(
                "the study, or the code that trains, is another one than when the retraining was asked for"
            )
        return found


def name_of(retrain: str | Retrain) -> str:
    """The name of a function that trains, by which another process finds it.

    Args:
        retrain: "recipe", a function, or its name ``module:function``.

    Returns:
        "recipe", or ``module:function``.

    Raises:
        NotSupported: if the function has no such name.
    """
    if isinstance(retrain, str) or retrain is by_recipe:
        return retrain if isinstance(retrain, str) else RECIPE
    module, name = getattr(retrain, "__module__", None), getattr(retrain, "__qualname__", "<")
    if not module or module == "__main__" or "<" in name:
        raise NotSupported(
            f"{name if name != '<' else retrain!r} has no name by which another process finds it, so that its results "
            "cannot be kept: put it into a module, or train by 'recipe'"
        )
    return f"{module}:{name}"


def module_of(retrain: str) -> str:
    """The module that has to be imported before a function that trains is found.

    Args:
        retrain: "recipe", or ``module:function``.

    Returns:
        Its name.
    """
    return "influence_core" if retrain == RECIPE else retrain.partition(":")[0]


def function_of(retrain: str) -> Retrain:
    """Find a function that trains by its name.

    Args:
        retrain: "recipe", or ``module:function``.

    Returns:
        The function.

    Raises:
        InvalidInput: if there is none of that name.
    """
    if retrain == RECIPE:
        return by_recipe
    module, _, name = retrain.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInput(
            f"{retrain!r} is no function that trains ({error}): give 'recipe', or 'module:function' that can be "
            "imported, of retrain(study, kept, seed)"
        ) from error
    return found
