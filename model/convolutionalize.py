"""Convolutionalization: a classifier becomes a network that slides over images of any size.

A fully connected layer over a CxKxK feature map is a convolution whose kernel covers that map
whole (section 3.1 of the paper): the same numbers, reshaped. On a larger image it gives one
answer per position instead of one per image. So the first such layer becomes 7x7 (VGG16) or 6x6
(AlexNet), since it looks at a map; those behind it become 1x1, since they look at one cell.
"""

from collections import OrderedDict
from typing import TypeAlias

from torch import nn
from torchvision.models import VGG, AlexNet, GoogLeNet

from model.caffenet import CaffeNet

Classifier: TypeAlias = VGG | AlexNet | CaffeNet | GoogLeNet


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


def convolutionalize(classifier: Classifier) -> nn.Sequential:
    """Return a classifier as a fully convolutional one with the same numbers.

    The result maps Bx3xHxW to BxKxH'xW' class scores: at the classifier's own size (224x224, 227
    for CaffeNet) a single cell that equals its logits, beyond that one cell for each window of
    that size at stride 32, computed from shared features.

    Layers bear the paper's names: `stage1.conv1_1`, ..., `fc6`, `fc7`, `fc8`; for GoogLeNet
    `conv1`, ..., `inception5b`, `fc`. Pooling rounds up, as in Caffe, which changes nothing at
    the classifier's own size. torchvision's adaptive average pool is the identity there and has
    no counterpart, except in GoogLeNet, where it is the mean of a 7x7 map.
    """
    if isinstance(classifier, GoogLeNet):
        return nn.Sequential(_googlenet_layers(classifier)).train(classifier.training)
    fc6, fc7, fc8 = (layer for layer in classifier.classifier if isinstance(layer, nn.Linear))
    channels = [layer for layer in classifier.features if isinstance(layer, nn.Conv2d)][-1]
    kernel_size = round((fc6.in_features / channels.out_channels) ** 0.5)
    layers = _stages(classifier)
    layers["fc6"] = conv_from_linear(fc6, kernel_size)
    layers["relu6"] = nn.ReLU(inplace=True)
    layers["drop6"] = nn.Dropout(0.5)
    layers["fc7"] = conv_from_linear(fc7)
    layers["relu7"] = nn.ReLU(inplace=True)
    layers["drop7"] = nn.Dropout(0.5)
    layers["fc8"] = conv_from_linear(fc8)
    return nn.Sequential(layers).train(classifier.training)


def _stages(classifier: VGG | AlexNet | CaffeNet) -> OrderedDict[str, nn.Module]:
    """Cut the features behind each pooling layer and name the layers as the paper does.

    VGG16 counts its convolutions within a stage (conv3_1 is the first of stage 3), AlexNet
    throughout (stage 3 holds conv3, conv4 and conv5).
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    in_stage = throughout = 0
    name = ""
    for layer in classifier.features:
        if isinstance(layer, nn.Conv2d):
            in_stage, throughout = in_stage + 1, throughout + 1
            vgg = isinstance(classifier, VGG)
            name = f"{len(stages) + 1}_{in_stage}" if vgg else f"{throughout}"
            layers[f"conv{name}"] = layer
        elif isinstance(layer, nn.BatchNorm2d | nn.LocalResponseNorm):
            layers[f"norm{name}"] = layer
        elif isinstance(layer, nn.ReLU):
            layers[f"relu{name}"] = layer
        elif isinstance(layer, nn.MaxPool2d):
            layers[f"pool{name.partition('_')[0]}"] = _rounding_up(layer)
            stages[f"stage{len(stages) + 1}"] = nn.Sequential(layers)
            layers, in_stage = OrderedDict(), 0
        else:
            raise TypeError(f"{type(layer).__name__} is no layer of a known classifier")
    return stages


def _googlenet_layers(classifier: GoogLeNet) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in classifier.named_children():
        if name.startswith("aux"):
            continue  # classifiers on the side, for training only
        if isinstance(layer, nn.MaxPool2d):
            layers[name.removeprefix("max")] = _rounding_up(layer)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            layers[name] = nn.AvgPool2d(7, stride=1)
        elif isinstance(layer, nn.Linear):
            layers[name] = conv_from_linear(layer)
        else:
            layers[name] = layer
    return layers


def _rounding_up(pool: nn.MaxPool2d) -> nn.MaxPool2d:
    return nn.MaxPool2d(pool.kernel_size, pool.stride, pool.padding, ceil_mode=True)
