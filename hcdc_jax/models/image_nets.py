"""The networks of the condensation literature for small images, [n, h, w, c] -> logits [n, num_classes].

Each sows its features, the inputs of the last linear layer, for `models.image_embedding`. Architectures as in the
public code of DC, DSA and DM (Zhao and Bilen), which has VGG-11 and ResNet-18 with instance norm. Here and in the files
of other networks `activation` and `precision` are those of `MLP` and `stem` that of `image_layers.stem`, where nothing
else is said.
"""

from __future__ import annotations

import flax.linen as nn

from hcdc_jax.errors import UserError
from hcdc_jax.models.image_layers import Activation, Block, Norm, activation, bordered, conv, flat, linear, pool, stem
from hcdc_jax.types import Array

VGG11_WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
RESNET18_STAGES = 4


class Head(nn.Module):
    """The last linear layer.

    Attributes:
      num_classes: number of logits.
      precision: of its product.
    """

    num_classes: int
    precision: str = "highest"

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Logits of features [n, d]."""
        self.sow("intermediates", "features", features)  # stores nothing where nobody asks
        return linear(self.num_classes, features, self.precision)


class MLP(nn.Module):
    """Two hidden layers on the flattened image.

    Attributes:
      num_classes: number of logits.
      width: of the hidden layers.
      depth: number of hidden layers.
      activation: a name in `image_layers.ACTIVATIONS`, or a function.
      precision: of all products: "highest", as solvers need it, or "default", which is faster on accelerators.
    """

    num_classes: int
    width: int = 128
    depth: int = 2
    activation: str | Activation = "relu"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        act, hidden = activation(self.activation), flat(images)
        for _ in range(self.depth):
            hidden = act(linear(self.width, hidden, self.precision))
        return Head(self.num_classes, self.precision)(hidden)


class ResidualMLP(nn.Module):
    """Pre-norm residual blocks of two linear layers on the flattened input: the ResNet for tables of arXiv 2106.11959.

    Its norm is a batch norm there. "layer" lets the logits of a row depend on no other row.

    Attributes:
      num_classes: number of logits.
      width: of the residual stream; blocks are twice as wide inside.
      depth: number of blocks.
      norm: see `image_layers.Norm`, of inputs of one pixel.
    """

    num_classes: int
    width: int = 128
    depth: int = 3
    norm: str = "layer"
    activation: str | Activation = "relu"
    precision: str = "highest"

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Logits [n, num_classes] of inputs [n, ...]."""
        act, stream = activation(self.activation), linear(self.width, flat(inputs), self.precision)
        for _ in range(self.depth):
            hidden = act(linear(2 * self.width, self._normalised(stream), self.precision))
            stream = stream + linear(self.width, hidden, self.precision)
        return Head(self.num_classes, self.precision)(act(self._normalised(stream)))

    def _normalised(self, stream: Array) -> Array:
        return flat(Norm(self.norm)(stream[:, None, None, :]))


class ConvNet(nn.Module):
    """ConvNet-D: `depth` blocks of a 3 x 3 convolution, norm, activation and pooling, then a linear layer.

    Attributes:
      num_classes: number of logits.
      width: channels of all convolutions.
      depth: number of blocks; with pooling each halves the image.
      norm: one of `image_layers.NORMS`.
      pooling: one of `image_layers.POOLINGS`.
    """

    num_classes: int
    width: int = 128
    depth: int = 3
    norm: str = "instance"
    activation: str | Activation = "relu"
    pooling: str = "average"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        act, hidden = activation(self.activation), bordered(images)
        for _ in range(self.depth):
            hidden = Norm(self.norm)(conv(self.width, 3, hidden, self.precision, padding=1))
            hidden = pool(act(hidden), self.pooling)
        return Head(self.num_classes, self.precision)(flat(hidden))


class LeNet(nn.Module):
    """LeNet-5 with rectifiers and maxima (LeCun et al., 1998, as PyTorch users write it).

    Attributes:
      num_classes: number of logits.
    """

    num_classes: int
    activation: str | Activation = "relu"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        act, hidden = activation(self.activation), bordered(images)
        for width in (6, 16):
            if min(hidden.shape[1:3]) < 6:
                raise UserError("the images are too small for LeNet, which needs at least 16 x 16 pixels")
            hidden = pool(act(conv(width, 5, hidden, self.precision, padding=0)), "max")
        hidden = flat(hidden)
        for width in (120, 84):
            hidden = act(linear(width, hidden, self.precision))
        return Head(self.num_classes, self.precision)(hidden)


class AlexNet(nn.Module):
    """AlexNet for images of about 32 x 32 pixels: five convolutions, three halvings, one linear layer, no norm.

    Attributes:
      num_classes: number of logits.
    """

    num_classes: int
    activation: str | Activation = "relu"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        act, hidden = activation(self.activation), bordered(images)
        for width, size, halve in ((128, 5, True), (192, 5, True), (256, 3, False), (192, 3, False), (192, 3, True)):
            hidden = act(conv(width, size, hidden, self.precision, padding=size // 2))
            hidden = pool(hidden, "max" if halve else "none")
        return Head(self.num_classes, self.precision)(flat(hidden))


class VGG11(nn.Module):
    """VGG-11 with a norm after each convolution and one linear layer (Simonyan and Zisserman, arXiv 1409.1556).

    Attributes:
      num_classes: number of logits.
      norm: one of `image_layers.NORMS`.
    """

    num_classes: int
    norm: str = "instance"
    activation: str | Activation = "relu"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        act, hidden = activation(self.activation), bordered(images)
        for widths in VGG11_WIDTHS:
            for width in widths:
                hidden = act(Norm(self.norm)(conv(width, 3, hidden, self.precision, padding=1)))
            hidden = pool(hidden, "max")
        return Head(self.num_classes, self.precision)(flat(hidden))


class ResidualBlock(Block):
    """Two 3 x 3 convolutions and a shortcut, which is a 1 x 1 convolution where the shape changes."""

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[n, h, w, c] -> [n, h / stride, w / stride, width]."""
        act, (width, stride) = activation(self.activation), (self.width, self.stride)
        hidden = conv(width, 3, images, self.precision, padding=1, stride=stride, bias=False)
        hidden = act(Norm(self.norm)(hidden))
        hidden = Norm(self.norm)(conv(width, 3, hidden, self.precision, padding=1, bias=False))
        if stride != 1 or images.shape[-1] != width:
            images = conv(width, 1, images, self.precision, padding=0, stride=stride, bias=False)
            images = Norm(self.norm)(images)
        return act(hidden + images)


class ResNet18(nn.Module):
    """ResNet-18 for small images: a 3 x 3 stem without pooling, eight blocks, the mean over pixels, one linear layer.

    He et al., arXiv 1512.03385, in the form that is usual for CIFAR.

    Attributes:
      num_classes: number of logits.
      width: channels of the stem and of the first of four stages, each of which has twice as many as the one before.
      norm: one of `image_layers.NORMS`.
      stem: see `image_layers.stem`; "imagenet" is the paper's.
    """

    num_classes: int
    width: int = 64
    norm: str = "instance"
    activation: str | Activation = "relu"
    stem: str = "auto"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        hidden = stem(self.width, images, self.stem, self.norm, activation(self.activation), self.precision)
        for stage in range(RESNET18_STAGES):
            for stride in (1 if stage == 0 else 2, 1):
                hidden = ResidualBlock(self.width * 2**stage, stride, self.norm, self.activation, self.precision)(
                    hidden
                )
        return Head(self.num_classes, self.precision)(hidden.mean((1, 2)))
