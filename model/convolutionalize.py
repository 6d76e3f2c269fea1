"""Convolutionalization: a classifier becomes a network that slides over images of any size.

A fully connected layer over a CxKxK feature map is a convolution whose kernel covers that map
whole (section 3.1 of the paper): the same numbers, reshaped. On a larger image it gives one
answer per position instead of one per image.
"""

from collections import OrderedDict

from torch import nn
from torchvision.models import VGG


def conv_from_linear(linear: nn.Linear, kernel_size: int = 1, padding: int = 0) -> nn.Conv2d:
    """Turn a `Linear` over a flattened CxKxK map into a `Conv2d` with the very same numbers.

    Args:
        linear: A layer with C K K inputs, flattened channel first (as `torch.flatten` does).
        kernel_size: K, height and width of the map that the layer saw: 7 for VGG16's fc6,
            1 for a layer that follows another fully connected one.
        padding: Zeros around the input of the convolution; 0 gives one output at K x K.

    Raises:
        ValueError: If the layer's inputs do not divide into KxK maps.
    """
    channels, rest = divmod(linear.in_features, kernel_size**2)
    if rest:
        raise ValueError(
            f"{linear.in_features} inputs are no flattened {kernel_size}x{kernel_size} maps"
        )
    conv = nn.Conv2d(
        channels,
        linear.out_features,
        kernel_size,
        padding=padding,
        bias=linear.bias is not None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
    )
    conv.weight = nn.Parameter(linear.weight.detach().reshape(conv.weight.shape).clone())
    if linear.bias is not None:
        conv.bias = nn.Parameter(linear.bias.detach().clone())
    return conv


def convolutionalize(classifier: VGG) -> nn.Sequential:
    """Return torchvision's VGG as a fully convolutional classifier with the same numbers.

    The result maps Bx3xHxW (H, W >= 224) to BxKxH'xW' class scores: at 224x224 a single cell
    that equals the classifier's logits, beyond that one cell for each 224x224 window at
    stride 32, computed from shared features. torchvision's adaptive average pool before the
    classifier is the identity on the 7x7 map of a 224x224 image and has no counterpart.
    """
    fc6, relu6, drop6, fc7, relu7, drop7, fc8 = classifier.classifier
    return nn.Sequential(
        OrderedDict(
            features=classifier.features,
            fc6=conv_from_linear(fc6, kernel_size=7),
            relu6=relu6,
            drop6=drop6,
            fc7=conv_from_linear(fc7),
            relu7=relu7,
            drop7=drop7,
            fc8=conv_from_linear(fc8),
        )
    )
