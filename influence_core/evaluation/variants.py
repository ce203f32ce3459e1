"""The same study with another model: trained again, trained on random labels, never trained, or less trained."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import Estimator
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.evaluation.candidates import lacking
from influence_core.evaluation.retraining import Retrain
from influence_core.scores import Scores
from influence_core.store import Retrainings
from influence_core.store.retrainings import RECIPE
from influence_core.study import Study
from influence_core.training import Trajectory, fit_fresh, reinitialised

ASKED = ("influence", "mislabel_scores", "self_influence")
"""Public methods whose order can be looked at; the first that an estimator gives is taken by default."""


def retrained_study(
    study: Study, seed: int, retrain: Retrain | str = RECIPE, train: LabelledDataset | None = None
) -> Study:
    """The study with a model that is trained anew.

    Args:
        study: whose architecture, images and recipe are used.
        seed: of the weights and batches.
        retrain: trains one model: a function, its name ``module:function``, or "recipe" for that of the study, which
            keeps as many checkpoints as the study has; the others give none.
        train: to train on, instead of the study's own; the new study explains it.

    Returns:
        The new study.
    """
    source = study if train is None else study.replaced(train=train)
    if retrain == RECIPE:
        recipe = recipe_of(study)
        count = min(len(study.trajectory) if study.trajectory is not None else 1, max(1, recipe.epochs))
        model, trajectory = fit_fresh(
            study.model, source.train, recipe, seed=seed, loss=study.loss, checkpoints=count, title="training again"
        )
        return source.replaced(model=model, trajectory=None if study.trajectory is None else trajectory)
    everything = torch.arange(len(study.train))
    if isinstance(retrain, str):
        retrain = Retrainings.of(source, retrain, torch.ones(1, len(everything), dtype=torch.bool), (), ()).function()
    return source.replaced(model=retrain(source, everything, seed).eval(), trajectory=None)


def randomised_study(study: Study, seed: int) -> Study:
    """The study with weights that were never trained, those of its checkpoints as well.

    Args:
        study: whose architecture is drawn anew.
        seed: of the weights; each checkpoint has its own.

    Returns:
        The new study.
    """
    trajectory = None
    if study.trajectory is not None:
        models = [reinitialised(study.model, seed + 1 + place) for place in range(len(study.trajectory))]
        drawn = [replace(c, state=_state(model)) for c, model in zip(study.trajectory, models, strict=True)]
        trajectory = Trajectory(drawn, study.trajectory.recipe)
    return study.replaced(model=reinitialised(study.model, seed), trajectory=trajectory)


def earlier_studies(study: Study) -> list[tuple[int, Study]]:
    """The study at each of its checkpoints, which has those before it as its trajectory.

    Args:
        study: with a trajectory.

    Returns:
        Step of the checkpoint, and the study.

    Raises:
        NotSupported: if there are fewer than two checkpoints.
    """
    if study.trajectory is None or len(study.trajectory) < 2:
        raise NotSupported(
            f"the study {study.name!r} has {'no' if study.trajectory is None else 'one'} checkpoint; stability over "
            "the trajectory needs two or more: ic.Study(..., trajectory=ic.training.fit(model, train)). Or give seeds"
        )
    return [
        (c.step, study.replaced(model=study.at(c), trajectory=study.trajectory[: place + 1]))
        for place, c in enumerate(study.trajectory)
    ]


def asked_of(estimator: Estimator, what: str | None) -> str:
    """The public method whose order is looked at.

    Args:
        estimator: that will be asked.
        what: its name; by default the first of ``ASKED`` that the estimator gives.

    Returns:
        The name.

    Raises:
        InvalidInput: if there is no such method.
        NotSupported: if the estimator gives none.
    """
    if what is not None and what not in ASKED:
        raise InvalidInput(f"what is {what!r}; choose one of {', '.join(ASKED)}")
    given = [one for one in ASKED if one in estimator.gives() and what in (None, one)]
    if not given:
        raise NotSupported(lacking(estimator, what or "influence"))
    return given[0]


def answered(study: Study, estimator: Estimator, what: str, test_ids: Tensor) -> Tensor:
    """The scores of a copy of an estimator that is fitted on a study.

    Args:
        study: to fit on.
        estimator: whose hyper-parameters are taken; it does not change.
        what: public method.
        test_ids: of the test images, for influence.

    Returns:
        [N, M]; one column where the method is about no test image.
    """
    fitted = type(estimator)(**estimator.get_params()).fit(study)
    scores: Scores = fitted.influence(test_ids) if what == "influence" else getattr(fitted, what)()
    return scores.values if scores.values.ndim > 1 else scores.values[:, None]


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
