"""Forward passes whose results are kept and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from influence_core.inputs import Inputs, moved
from influence_core.models.private import private


class Forward:
    """A private copy of a model to run forward only; see ``private``.

    On the CPU in single precision images travel with channels last, as long as the model allows it: pooling and
    normalisation are several times as fast so. Outputs are the same to rounding.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy.

        Args:
            model: in eval mode; it is only read.
        """
        self._model = private(model)
        parameter = next(self._model.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        self._convolutions = [module for module in self._model.modules() if isinstance(module, nn.Conv2d)]
        self._hooks = [module.register_forward_hook(_keep_channels_last) for module in self._convolutions]

    def __call__(self, inputs: Inputs) -> Tensor:
        """The model's outputs for some inputs, under whatever gradient mode is on."""
        inputs = moved(inputs, self.device)
        if self._hooks and isinstance(inputs, Tensor) and _are_images(inputs):
            try:
                return self._model(inputs.contiguous(memory_format=torch.channels_last))
            except RuntimeError:  # the model views images in a way that needs channels first, or fails in any case
                pass
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        return self._model(inputs)


def _are_images(inputs: Tensor) -> bool:
    return inputs.dim() == 4 and inputs.device.type == "cpu" and inputs.dtype == torch.float32


def _keep_channels_last(module: nn.Module, args: object, output: Tensor) -> Tensor:
    # A convolution of one channel gives channels first: its input is in both orders at once.
    return output.contiguous(memory_format=torch.channels_last) if output.dim() == 4 else output
