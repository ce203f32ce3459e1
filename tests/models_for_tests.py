"""Models that the engine is tried on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


def resnet18(width: int = 64, classes: int = 10, channels: int = 3) -> nn.Sequential:
    """ResNet-18 for CIFAR: a 3x3 stem and no first pooling; 11 M parameters at width 64."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    inputs = width
    for stage in range(4):
        for block in range(2):
            layers.append(ResidualBlock(inputs, width << stage, 2 if block == 0 and stage > 0 else 1))
            inputs = width << stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return settled(nn.Sequential(*layers))


def vgg11(width: int = 64, classes: int = 10, image: int = 32) -> nn.Sequential:
    """VGG-11 with in-place activations and two fully connected layers."""
    layers: list[nn.Module] = []
    inputs, size = 3, image
    for plan in (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"):
        if plan == "M":
            if size > 1:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        else:
            layers += [nn.Conv2d(inputs, width * int(plan), 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width * int(plan)
    layers += [nn.Flatten(), nn.Linear(inputs * size * size, 2 * inputs), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(2 * inputs, classes))


def small_cnn(channels: int = 1, widths: tuple[int, ...] = (32, 64, 128), classes: int = 10) -> nn.Sequential:
    """3x3 convolutions, each followed by pooling, and a linear layer; for 28x28 images."""
    layers: list[nn.Module] = []
    size, inputs = 28, channels
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        inputs, size = width, size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * size * size, classes))


class ViT(nn.Module):
    """A small vision transformer with a class token, learned positions and torch's own encoder layers."""

    def __init__(
        self, image: int = 8, patch: int = 4, width: int = 12, depth: int = 2, batch_first: bool = True
    ) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, activation="gelu", batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        x = self.encoder(x) if self.batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        return self.head(self.norm(x[:, 0]))


class MixerBlock(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer."""

    def __init__(self, image: int = 8, patch: int = 4, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*[MixerBlock((image // patch) ** 2, width) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


class LoRALinear(nn.Module):
    """A frozen linear layer and a trainable low-rank one beside it, submodules named as in PEFT."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        self.scaling = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scaling * self.lora_B["default"](self.lora_A["default"](x))


class LoRATransformer(nn.Module):
    """A small language model: embedding, one attention block written out, LoRA on queries and values, tied head."""

    def __init__(self, words: int = 11, width: int = 8, rank: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width).requires_grad_(False)
        self.query = LoRALinear(nn.Linear(width, width), rank)
        self.key = nn.Linear(width, width).requires_grad_(False)
        self.value = LoRALinear(nn.Linear(width, width), rank)
        self.norm = nn.RMSNorm(width).requires_grad_(False)
        self.classifier = nn.Linear(width, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), is_causal=True)
        return self.classifier(self.norm(x).mean(1))


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with norms' statistics and scales away from their initial values, so that nothing cancels."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(1.0 + 0.5 * torch.rand(module.running_var.shape, generator=generator))
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() == 1 and module._parameters.get("bias") is not None:
            with torch.no_grad():
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
                module.bias.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model
