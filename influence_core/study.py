"""Study: a trained model, its loss, its datasets and its trajectory, checked once and then left alone."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from influence_core.batches import samples_at_once
from influence_core.data import LabelledDataset, check_labels, wrap
from influence_core.errors import InvalidInput
from influence_core.gradients import check_model, plain_attention
from influence_core.losses import Loss, cross_entropy
from influence_core.models import check_finite, load_weights
from influence_core.models.private import private
from influence_core.progress import tick
from influence_core.training import Checkpoint, Trajectory

SPLITS = ("train", "validation", "test")


class Study:
    """What every estimator works on.

    The model is copied and put in eval mode, so that nothing a notebook does to its own copy changes a result.

    Args:
        model: a trained classifier, inputs [B, ...] to outputs [B, K].
        train: the training images with the labels the model was trained on; any map-style dataset of
            ``(input tensor, label)``.
        test: images to explain, with their labels.
        validation: images with clean labels, apart from ``test``; some estimators need them.
        trajectory: checkpoints of the training; some estimators need them.
        loss: one loss per sample.
        weight_decay: lambda of the penalty lambda/2 ||w||^2 used in training.
        name: shown in the app.

    Attributes:
        model: the copy, in eval mode.
        train: ``LabelledDataset``.
        test: ``LabelledDataset``.
        validation: ``LabelledDataset`` or ``None``.

    Raises:
        InvalidInput: if shapes, labels, weights and checkpoints do not fit together; the message says which.

    Example:
        >>> import influence_core as ic
        >>> study = ic.demo.digits()
        >>> study.num_classes, len(study.train)
        (10, 1000)
    """

    def __init__(
        self,
        model: nn.Module,
        train: Dataset[Any],
        test: Dataset[Any],
        validation: Dataset[Any] | None = None,
        trajectory: Trajectory | None = None,
        loss: Loss = cross_entropy,
        weight_decay: float = 0.0,
        name: str = "study",
    ) -> None:
        self.model = copy.deepcopy(model).eval()
        self.model.zero_grad(set_to_none=True)
        self.loss = loss
        self.weight_decay = weight_decay
        self.name = name
        self.train = wrap(train, "train")
        names = self.train.class_names
        self.test = wrap(test, "test", names)
        self.validation = None if validation is None else wrap(validation, "validation", names)
        self.trajectory = trajectory
        self._outputs: dict[str, Tensor] = {}
        self._check()

    def __repr__(self) -> str:
        """Name, model and the sizes of the datasets."""
        sizes = ", ".join(f"{len(self.split(s))} {s}" for s in SPLITS if s != "validation" or self.validation)
        parameters = sum(p.numel() for p in self.model.parameters())
        return f"Study({self.name!r}: {type(self.model).__name__} with {parameters:,} parameters; {sizes})"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def class_names(self) -> list[str]:
        """One name per class."""
        return self.train.class_names or [str(k) for k in range(self.num_classes)]

    def split(self, name: str) -> LabelledDataset:
        """The dataset called "train", "validation" or "test".

        Args:
            name: one of the three.

        Returns:
            The dataset.

        Raises:
            InvalidInput: if there is no such dataset.
        """
        if name not in SPLITS:
            raise InvalidInput(f"there is no dataset {name!r}; a study has {', '.join(SPLITS)}")
        data = {"train": self.train, "validation": self.validation, "test": self.test}[name]
        if data is None:
            raise InvalidInput("this study has no validation set: ic.Study(..., validation=clean_dataset)")
        return data

    def outputs(self, split: str = "test") -> Tensor:
        """Outputs of the model (logits) for a whole dataset, [n, K]; computed once."""
        if split not in self._outputs:
            self._outputs[split] = model_outputs(self.model, self.split(split))
            check_finite(self._outputs[split], f"the model's outputs on the {split} set")
        return self._outputs[split]

    def probabilities(self, split: str = "test") -> Tensor:
        """Softmax of the outputs, [n, K]."""
        return self.outputs(split).softmax(1)

    def predictions(self, split: str = "test") -> Tensor:
        """Predicted labels, int64 [n]."""
        return self.outputs(split).argmax(1)

    def losses(self, split: str = "test") -> Tensor:
        """Loss of each sample with its given label, [n]."""
        return self.loss(self.outputs(split), self.split(split).labels)

    def accuracy(self, split: str = "test") -> float:
        """Share of samples whose prediction is the given label."""
        return float((self.predictions(split) == self.split(split).labels).double().mean())

    def misclassified(self) -> Tensor:
        """Ids of the test images that the model gets wrong, int64, ascending."""
        return (self.predictions("test") != self.test.labels).nonzero().flatten()

    def check_finite(self) -> None:
        """Refuse NaN and infinity in the weights and in every dataset; each dataset is read once.

        Raises:
            InvalidInput: naming the weight or the image.
        """
        for name, tensor in self.model.state_dict().items():
            check_finite(tensor, f"{name} of the model")
        for split in SPLITS:
            if split != "validation" or self.validation is not None:
                self.split(split).check_finite()

    def at(self, checkpoint: Checkpoint) -> nn.Module:
        """A copy of the model with the weights and buffers of ``checkpoint``, in eval mode."""
        return load_weights(copy.deepcopy(self.model), checkpoint.state, f"the checkpoint at step {checkpoint.step}")

    def edited(self, change: Mapping[str, Tensor]) -> Study:
        """The study with changed weights.

        Args:
            change: parameter name -> tensor to add to it.

        Returns:
            A new study; this one does not change.

        Raises:
            InvalidInput: if a name or a shape does not fit.
        """
        model = copy.deepcopy(self.model)
        parameters = dict(model.named_parameters())
        for name, delta in change.items():
            if name not in parameters or parameters[name].shape != delta.shape:
                expected = tuple(parameters[name].shape) if name in parameters else "no such parameter"
                raise InvalidInput(f"the change of {name!r} has shape {tuple(delta.shape)}, expected: {expected}")
            with torch.no_grad():
                parameters[name].add_(delta.to(parameters[name]))
        return self.replaced(model=model)

    def replaced(self, **parts: Any) -> Study:
        """The study with some of its parts replaced.

        Args:
            **parts: arguments of ``Study`` to change.

        Returns:
            A new study.
        """
        own: dict[str, Any] = {
            "model": self.model,
            "train": self.train,
            "test": self.test,
            "validation": self.validation,
            "trajectory": self.trajectory,
            "loss": self.loss,
            "weight_decay": self.weight_decay,
            "name": self.name,
        }
        return Study(**(own | parts))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, the data, the trajectory, the loss and the weight decay."""
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        loss = getattr(self.loss, "__qualname__", type(self.loss).__name__)
        parts = [data.fingerprint for data in (self.train, self.validation, self.test) if data is not None]
        parts += [self.trajectory.fingerprint if self.trajectory else "-", loss, repr(self.weight_decay)]
        digest.update("|".join(parts).encode())
        return digest.hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write the study as ``study.toml`` and safetensors files beside it.

        Args:
            path: folder, or the ``.toml`` file to write.

        Returns:
            The file written.
        """
        from influence_core import study_file

        return study_file.save(self, path)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None, loss: Loss | None = None) -> Study:
        """Read a study file.

        Args:
            path: ``study.toml``, or the folder it lies in.
            model: the architecture, where the file names none that is registered.
            loss: the loss, where it is not cross-entropy.

        Returns:
            The study.
        """
        from influence_core import study_file

        return study_file.load(path, model, loss)

    def _check(self) -> None:
        for name, tensor in self.model.state_dict().items():
            check_finite(tensor, f"{name} of the model")
        check_model(self.model)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise InvalidInput(
                f"no parameter of the model {type(self.model).__name__} requires a gradient, so there is nothing "
                "that a training image could have changed: call model.requires_grad_(True)"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise InvalidInput(f"weight_decay is {self.weight_decay}; it is the factor of a penalty, so 0 or more")
        inputs, labels = self.train.batch([0]) if len(self.train) else (None, None)
        if inputs is None or labels is None:
            raise InvalidInput("the train set is empty")
        shape = inputs.shape[1:]
        self.num_classes = self._classes(inputs)
        for split in SPLITS:
            if split == "validation" and self.validation is None:
                continue
            data = self.split(split)
            if len(data) == 0:
                raise InvalidInput(f"the {split} set is empty")
            first = data.batch([0])[0]
            if first.shape[1:] != shape or first.dtype != inputs.dtype:
                raise InvalidInput(
                    f"{split} images have shape {tuple(first.shape[1:])} and {first.dtype}, train images "
                    f"{tuple(shape)} and {inputs.dtype}: they must agree"
                )
            if data.class_names is not None and data.class_names != (self.train.class_names or data.class_names):
                raise InvalidInput(
                    f"the {split} set has the classes {', '.join(data.class_names[:12])}, the train set "
                    f"{', '.join(self.class_names[:12])}: give both the same class_names in the same order"
                )
            if data.class_names is not None and len(data.class_names) != self.num_classes:
                raise InvalidInput(
                    f"the {split} set names {len(data.class_names)} classes, "
                    f"but the model has {self.num_classes} outputs"
                )
            check_labels(data.labels, self.num_classes, split, "the model has {} outputs")
        self._check_loss(inputs, labels)
        if self.trajectory is not None:
            self.at(self.trajectory[-1])

    def _check_loss(self, inputs: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            outputs = self.model(inputs.to(self.device)).cpu()
        losses = self.loss(torch.cat([outputs, outputs]), torch.cat([labels, labels]))
        if losses.shape != (2,):
            raise InvalidInput(
                f"the loss gives shape {tuple(losses.shape)} for two images, expected one loss per image: "
                "use reduction='none'"
            )

    def _classes(self, inputs: Tensor) -> int:
        try:
            with torch.no_grad():
                outputs = self.model(inputs.to(self.device))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InvalidInput(
                f"the model {type(self.model).__name__} does not take the training images of shape "
                f"{tuple(inputs.shape[1:])}: {(str(error).splitlines() or [type(error).__name__])[0]}"
            ) from error
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise InvalidInput(f"the model gives {got} for one image, expected logits of shape (1, classes)")
        return int(outputs.shape[1])


@torch.no_grad()
def model_outputs(model: nn.Module, data: LabelledDataset, ids: Sequence[int] | Tensor | None = None) -> Tensor:
    """Outputs of a model in eval mode, in dataset order.

    Args:
        model: in eval mode.
        data: what to run it on.
        ids: which samples; all by default.

    Returns:
        [n, K], on the CPU.
    """
    mine = private(model)
    device = next(mine.parameters()).device
    chosen = torch.arange(len(data)) if ids is None else torch.as_tensor(ids, dtype=torch.long)
    found = []
    with plain_attention():
        for part in chosen.split(samples_at_once()):
            tick()
            found.append(mine(data.batch(part)[0].to(device)).cpu())
    return torch.cat(found)
