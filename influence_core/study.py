"""Study: a trained model, its loss, its datasets and its trajectory, checked once and then left alone."""

from __future__ import annotations

import copy
import hashlib
import math
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from influence_core.data import LabelledDataset, SampleSet, check_labels, wrap
from influence_core.data.samples import described
from influence_core.errors import InvalidInput, NotSupported, ReopenWarning
from influence_core.gradients import check_model
from influence_core.identity import add_tensor, check_identified, identify, qualified_name
from influence_core.inputs import Inputs
from influence_core.losses import Loss, cross_entropy
from influence_core.machine import cache_folder
from influence_core.models import (
    Architecture,
    PluginFile,
    as_given,
    build,
    check_finite,
    check_size,
    dataset_losses,
    in_kind,
    load_weights,
    logits,
    model_outputs,
    pick,
    private,
    run_plugin,
    saved_as,
    structure_of,
    unpack,
)
from influence_core.models.adapted import Output
from influence_core.serving import Link, open_link
from influence_core.study_checks import SPLITS as SPLITS  # what others take from here
from influence_core.study_checks import (
    Settled,
    answer_of_one,
    check_kinds,
    check_loss,
    count_classes,
    freeze,
    own_copy,
    settled_decay,
)
from influence_core.study_general import check_general, check_padding
from influence_core.threads import uninterrupted
from influence_core.training import Checkpoint, Trajectory

_ABSENT = object()
PAGES = ("", "explain", "mislabels", "relabel", "what-if", "jobs")
"""Of the app, as its addresses call them; the first is the overview."""


class Study:
    """What every estimator works on.

    The model is copied and put in eval mode, so that nothing a notebook does to its own copy changes a result.

    Args:
        model: a trained model, inputs [B, ...] to outputs [B, K] of a classifier, or to any outputs [B, ...].
        train: the training images with the labels the model was trained on; any map-style dataset of
            ``(input tensor, label)``. Several inputs, inputs of unequal length and labels that are no classes come in
            ``ic.data.SampleSet``, which samples that speak for themselves are wrapped in.
        test: images to explain, with their labels.
        validation: images with clean labels, apart from ``test``; some estimators need them.
        trajectory: checkpoints of the training; some estimators need them.
        loss: one loss per sample.
        weight_decay: lambda of the penalty lambda/2 ||w||^2 used in training; by default that of the trajectory's
            recipe, and 0 without a trajectory. One that differs from the recipe's is warned of.
        name: shown in the app.
        output: takes the tensor of outputs from what the model answers; by default that tensor itself, or its
            ``.logits`` or ``["logits"]``.

    Attributes:
        model: the copy, in eval mode; it takes what ``study.train.batch(ids)`` gives, and gives a tensor.
        classes: number of classes K; ``None`` where labels are no classes.
        num_outputs: numbers that the model gives for a sample.
        train: ``LabelledDataset``; a ``SampleSet`` where it is general.
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
        weight_decay: float | None = None,
        name: str = "study",
        output: Output | None = None,
    ) -> None:
        check_kinds(model, trajectory, loss, weight_decay, name)
        self.output = output
        self.model = own_copy(model).eval()
        self.model.zero_grad(set_to_none=True)
        self.loss = loss
        self.weight_decay = settled_decay(weight_decay, trajectory)
        self.name = name
        self.train = wrap(train, "train")
        names = self.train.class_names
        self.test = wrap(test, "test", names)
        self.validation = None if validation is None else wrap(validation, "validation", names)
        self.trajectory = trajectory
        self._outputs: dict[str, Tensor] = {}
        self._fingerprint: str | None = None
        self._expected: str | None = None
        self._home: Path | None = None
        self._lock = threading.RLock()
        self._computing = {split: threading.RLock() for split in SPLITS}
        self._identity = self._identified(*self._check())

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the locks, which a copy gets anew."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_computing")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What ``copy.deepcopy`` and ``pickle`` call."""
        vars(self).update(state)
        self._lock = threading.RLock()
        self._computing = {split: threading.RLock() for split in SPLITS}

    def _identified(self, passed: nn.Module, passing: dict[int, set[str]]) -> tuple[str, tuple[str, ...]]:
        """What model and loss are, beside weights; taken once, while nobody else has them."""
        # after a pass on a private copy, a model that has been used is like one that has not; and what the next pass
        # makes anew (self.last = inputs, a counter) says nothing of either
        model, loss = structure_of(passed, passing), identify(self.loss, "the loss")
        return f"{model.sha256}|{loss.sha256}", (*model.unknown, *loss.unknown)

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
    def num_classes(self) -> int:
        """Number of classes K.

        Raises:
            NotSupported: if the labels are no classes.
        """
        return self.need_classes("num_classes")

    def need_classes(self, what: str) -> int:
        """Refuse what makes no sense for labels that are no classes.

        Args:
            what: needs them, for the message.

        Returns:
            Number of classes K.

        Raises:
            NotSupported: if the labels are no classes, with what they are.
        """
        if self.classes is None:
            label = self.train.batch([0])[1][0]
            whole = isinstance(label, Tensor) and label.dim() == 0 and not label.is_floating_point()
            beside = f" that are no classes of a model with {self.num_outputs} outputs" if whole else ""
            raise NotSupported(f"{what} needs class labels; this study's labels are {described(label)}{beside}")
        return self.classes

    @property
    def class_names(self) -> list[str]:
        """One name per class."""
        self.need_classes("class_names")
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
        """Outputs of the model (logits) for a whole dataset, [n, K] or [n, ...]; computed once.

        Args:
            split: "train", "validation" or "test".

        Returns:
            The outputs, on the CPU.

        Raises:
            NotSupported: if samples differ in the shape of their outputs.
        """
        data = self.split(split)
        with self._computing[split]:
            if split not in self._outputs:
                outputs = model_outputs(self.model, data)
                check_finite(outputs, f"the model's outputs on the {split} set")
                self._outputs[split] = outputs
            return self._outputs[split]

    def probabilities(self, split: str = "test") -> Tensor:
        """Softmax of the outputs, [n, K]."""
        self.need_classes("probabilities")
        return self.outputs(split).softmax(1)

    def predictions(self, split: str = "test") -> Tensor:
        """Predicted labels, int64 [n]."""
        self.need_classes("predictions")
        return self.outputs(split).argmax(1)

    def losses(self, split: str = "test") -> Tensor:
        """Loss of each sample with its given label, [n]."""
        data = self.split(split)
        if isinstance(data, SampleSet):
            return dataset_losses(self.model, self.loss, data)
        return self.loss(self.outputs(split), data.labels)

    def accuracy(self, split: str = "test") -> float:
        """Share of samples whose prediction is the given label."""
        self.need_classes("accuracy")
        return float((self.predictions(split) == self.split(split).labels).double().mean())

    def misclassified(self) -> Tensor:
        """Ids of the test images that the model gets wrong, int64, ascending."""
        self.need_classes("misclassified")
        return (self.predictions("test") != self.test.labels).nonzero().flatten()

    def check_finite(self) -> None:
        """Refuse NaN and infinity in the weights and in every dataset; each dataset is read once.

        Raises:
            InvalidInput: naming the weight or the image.
        """
        self._check_weights()
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
            "weight_decay": Settled(self.weight_decay),
            "name": self.name,
            "output": self.output,
        }
        if isinstance(parts.get("weight_decay"), (int, float)):
            parts["weight_decay"] = Settled(parts["weight_decay"])  # what is replaced is meant
        return Study(**(own | parts))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that changes a number; computed once.

        That is the architecture with its code and arguments, the weights, which of them are trained, the loss with its
        code and parameters, the weight decay, the data and the trajectory. ``unidentified`` says what is missing.

        Raises:
            InvalidInput: if the study was loaded from a file that names another fingerprint.
        """
        with self._lock:
            if self._fingerprint is None:
                self._fingerprint = self._computed_fingerprint()
            if self._expected not in (None, self._fingerprint):
                raise InvalidInput(
                    f"the study {self.name!r} is not the one that was saved: its fingerprint is "
                    f"{self._fingerprint[:12]}, the file says {str(self._expected)[:12]}. All files are whole, so the "
                    "code of the model or of the loss differs, an attribute of the model that is no weight (a counter, "
                    "a list that its passes fill), or the version of Python: load it with the model and the code it "
                    "was saved with. Or the .toml was edited (weight_decay, frozen, a dataset): undo that; or, if the "
                    "change was meant, take the lines 'fingerprint' and 'checksum' out of it"
                )
            return self._fingerprint

    def _computed_fingerprint(self) -> str:
        digest = hashlib.sha256(self._identity[0].encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            if isinstance(tensor, Tensor):  # else extra state, which is part of the identity
                add_tensor(digest, tensor)
        parts = [data.fingerprint for data in (self.train, self.validation, self.test) if data is not None]
        parts += ["validated" if self.validation else "-", self.trajectory.fingerprint if self.trajectory else "-"]
        digest.update("|".join([*parts, repr(float(self.weight_decay)), *self._frozen()]).encode())
        return digest.hexdigest()

    @property
    def unidentified(self) -> list[str]:
        """What the fingerprint cannot tell from another of its kind, a sentence each; usually nothing.

        Results of such a study cannot be saved, because nobody could say later what they belong to.
        """
        return list(self._identity[1])

    def _frozen(self) -> list[str]:
        return [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad]

    def save(self, path: str | Path, copy_data: bool = False, plugin: str | Path | None = None) -> Path:
        """Write the study as ``study.toml`` and files beside it, in place of the study that is there.

        Data that were read from a folder, a table or a dataset of torchvision are referred to by their path, with the
        SHA-256 of every file, the transform, the labels that were changed and the samples that were chosen: a file
        that is another later is named before anything is scored. Other pictures are written encoded into a Parquet
        file, and anything else as tensors. A transform that is none of torchvision's cannot be written: a warning says
        so, and its inputs are written as tensors. Whatever happens meanwhile, the folder holds the former study or
        this one.

        A model that was made by ``ic.models.build``, by calling something that is registered, or by torchvision or timm
        opens by itself; of another one a ``ReopenWarning`` says how it can be opened.

        Args:
            path: folder, or the ``.toml`` file to write.
            copy_data: write all data into the folder, so that it can be sent to somebody as it is.
            plugin: a Python file that registers (``@ic.models.register``) or defines the model's architecture. It is
                run once to see that it builds the model, and a copy of it goes beside the study.

        Returns:
            The file written.

        Raises:
            InvalidInput: if the disk is full, the folder cannot be written, a name cannot be encoded, or the plugin
                does not build the model.
            NotSupported: if the model or the loss has parts that cannot be identified, or state that is no tensor.
        """
        with uninterrupted():
            from influence_core import study_file

        check_identified(self.unidentified, f"the study {self.name!r}")
        weights = self.model.state_dict()
        for name, value in weights.items():
            if not isinstance(value, Tensor):
                raise NotSupported(
                    f"the study {self.name!r} cannot be saved: {name!r} of the model is a {type(value).__name__}, and "
                    "a file holds tensors only: let get_extra_state give a tensor"
                )
        architecture, needed = saved_as(as_given(self.model), self._is_model, plugin)
        contents = study_file.Contents(
            name=self.name,
            class_names=None if self.classes is None else self.class_names,
            loss="cross_entropy" if self.loss is cross_entropy else qualified_name(self.loss),
            weight_decay=self.weight_decay,
            architecture=architecture,
            plugin=None if needed is None else PluginFile(needed.path, needed.sha256, needed.source),
            weights=weights,
            data={split: data for split in SPLITS if (data := getattr(self, split)) is not None},
            trajectory=self.trajectory,
            frozen=self._frozen(),
            fingerprint=self.fingerprint,
        )
        written = study_file.write(contents, path, copy_data)
        self._home = written
        if architecture is None:
            kind = type(self.model).__name__
            warnings.warn(
                f"the study {self.name!r} does not open by itself, because nobody can tell how its model {kind} is "
                "built: put its class or function, decorated with @ic.models.register(name), into a file and save with "
                "study.save(path, plugin='file.py'), or bring the model each time, ic.Study.load(path, model=my_model)",
                ReopenWarning,
                stacklevel=2,
            )
        return written

    def open_app(self, page: str = "", **chosen: Any) -> Link:
        """Show the study in the app: a server is started, or the one that shows it already is found.

        It listens on this machine alone and goes on after this process; ``link.stop()`` ends it. A study that was
        neither loaded nor saved is saved into the user's cache first.

        Args:
            page: "" for the overview, "explain", "mislabels", "relabel", "what-if" or "jobs".
            **chosen: what is chosen there, as in the address: ``estimator="ekfac"``, ``test=475``.

        Returns:
            The link, which a notebook shows; on a remote machine with the ssh command that leads to it.

        Raises:
            InvalidInput: if there is no such page.
            NotSupported: if the app could not open the study by itself.
        """
        if page not in PAGES:
            raise InvalidInput(f"the app has no page {page!r}; it has {', '.join(p or repr(p) for p in PAGES)}")
        home, plugin = self.home()
        return open_link(home, page, {name: str(value) for name, value in chosen.items()}, plugin)

    @property
    def file(self) -> Path | None:
        """The study file that it was loaded from or saved to last; ``None`` where there is none."""
        return self._home

    def home(self) -> tuple[Path, Path | None]:
        """Where another process can open this study; one that is in no file is saved into the user's cache.

        Returns:
            The ``.toml`` file, and the plugin that has to run first, if there is one.

        Raises:
            NotSupported: if no other process could open it, because its model or its loss is known to this one alone.
        """
        with uninterrupted():
            from influence_core.study_schema import CUSTOM, parse

        home, known = self._home, self._fingerprint or self._expected
        if home is None or not home.is_file() or parse(home)[1].fingerprint not in (None, known):
            home = cache_folder() / "studies" / self.fingerprint[:16] / "study.toml"
            if not home.is_file():
                with warnings.catch_warnings():
                    warnings.simplefilter("error", ReopenWarning)
                    try:
                        self.save(home)
                    except ReopenWarning as error:
                        raise NotSupported(f"no other process can open the study: {error}") from error
        file = parse(home)[1]
        if file.model.architecture == CUSTOM or file.loss != "cross_entropy":
            which = "model" if file.model.architecture == CUSTOM else "loss"
            raise NotSupported(
                f"no other process can open the study {self.name!r}: its {which} is known to this one alone. For a "
                "model, put its class into a file, decorated with @ic.models.register(name), and save with "
                "study.save(path, plugin='file.py')"
            )
        model = file.model
        return home, None if model.plugin is None else home.parent / model.plugin

    def _is_model(self, model: nn.Module) -> bool:
        """Whether a model with the weights of the study's is the same in all else that counts."""
        return self.replaced(model=model)._identity[0] == self._identity[0]

    @classmethod
    def load(
        cls, path: str | Path, model: nn.Module | None = None, loss: Loss | None = None, trust: bool = False
    ) -> Study:
        """Read a study file; every checksum in it is compared. A file of version 1 has none.

        Picture files are compared by size now, and by SHA-256 when one is read, at the latest for the fingerprint;
        of up to 64 MiB in all, at once.

        Args:
            path: ``study.toml``, or the folder it lies in.
            model: the architecture, where the file names none that is registered; its weights are replaced.
            loss: the loss, where it is not cross-entropy.
            trust: whether the plugin that the file names, which is Python code, may run; read it first. One that
                ``ic.models.load_plugin`` has run may anyway.

        Returns:
            The study.

        Raises:
            InvalidInput: in one sentence: the key, file, shape or label that is wrong, and what was expected.
        """
        with uninterrupted():
            from influence_core import study_file

        found = study_file.read(path)
        file = study_file.toml_path(path)
        if loss is None:
            if found.loss != "cross_entropy":
                raise InvalidInput(
                    f"{file} uses the loss {found.loss!r}: pass it as ic.Study.load(path, loss=function)"
                )
            loss = cross_entropy
        if model is None:
            if found.architecture is None:
                raise InvalidInput(
                    f"{file} was saved from a model that nobody but its user can build: pass the architecture as "
                    "ic.Study.load(path, model=my_model), or register it with @ic.models.register(name) and write that "
                    "name as architecture."
                )
            name = found.architecture.name
            if found.plugin is not None:
                name = run_plugin(found.plugin.path, found.plugin.sha256, trust).named(name)
            check_size(Architecture(name, found.architecture.arguments), found.weights, found.source)
            model = build(name, **found.architecture.arguments)
            if found.fingerprint is not None:  # else nobody knows which precision it had
                in_kind(model, found.weights)
        load_weights(model, found.weights, found.source)
        if found.frozen is not None:
            freeze(model, found.frozen, file)
        parts: dict[str, Any] = dict(found.data)
        study = cls(
            model,
            **parts,
            trajectory=found.trajectory,
            loss=loss,
            weight_decay=Settled(found.weight_decay),
            name=found.name,
        )
        study._expected, study._home = found.fingerprint, file
        if found.fingerprint is not None and all(d.is_quick for d in found.data.values()):
            _ = study.fingerprint  # of many picture files it would take long; there it is compared when it is asked for
        return study

    def _check_weights(self) -> None:
        for name, tensor in self.model.state_dict().items():
            if isinstance(tensor, Tensor):  # else extra state of the user's own
                check_finite(tensor, f"{name} of the model")

    def _adapted(self, inputs: Inputs) -> tuple[nn.Module, Tensor]:
        """Let the model take what the data give and answer with a tensor; a private copy, and its first answer."""
        unpack(self.model, inputs)
        if self.output is not None:
            pick(self.model, self.output)
        passed = private(self.model)
        outputs = answer_of_one(passed, inputs)
        if isinstance(outputs, Tensor):
            return passed, outputs
        if self.output is not None:
            raise InvalidInput(f"output= gave a {type(outputs).__name__} for one sample, expected a tensor (1, ...)")
        pick(self.model, logits)
        passed = private(self.model)
        return passed, answer_of_one(passed, inputs)

    def _check_images(self, split: str, data: LabelledDataset, inputs: Tensor) -> None:
        first, shape = data.batch([0])[0], inputs.shape[1:]
        if first.shape[1:] != shape or first.dtype != inputs.dtype:
            raise InvalidInput(
                f"{split} images have shape {tuple(first.shape[1:])} and {first.dtype}, train images "
                f"{tuple(shape)} and {inputs.dtype}: they must agree"
            )

    def _check(self) -> tuple[nn.Module, dict[int, set[str]]]:
        """Check all parts; a private copy of the model after its passes, and what each of them makes anew."""
        self._check_weights()
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
        passed, outputs = self._adapted(inputs)
        present = {split: data for split in SPLITS if (data := getattr(self, split)) is not None}
        general = any(isinstance(data, SampleSet) for data in present.values())
        if general:
            self.num_outputs, self.classes = check_general(present, self.loss, inputs, labels, outputs)
        else:
            self.num_outputs = self.classes = count_classes(outputs)
        for split, data in present.items():
            if len(data) == 0:
                raise InvalidInput(f"the {split} set is empty")
            if not general:
                self._check_images(split, data, inputs)
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
            if self.classes is not None:
                check_labels(data.labels, self.classes, split, "the model has {} outputs")
            data.check_repeatable()
        before = {id(module): _held(module) for module in passed.modules()}
        check_loss(passed, self.loss, inputs, labels)
        for data in present.values():
            check_padding(passed, self.loss, data)
        if self.trajectory is not None:
            self.at(self.trajectory[-1])
        return passed, {
            id(module): {
                name for name, value in _held(module).items() if value is not before[id(module)].get(name, _ABSENT)
            }
            for module in passed.modules()
            if id(module) in before
        }


def _held(module: nn.Module) -> dict[str, Any]:
    return {**module._buffers, **vars(module)}
