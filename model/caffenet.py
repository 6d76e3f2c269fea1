"""CaffeNet: the AlexNet that the paper's FCN-AlexNet was made from.

Krizhevsky's network (2012) as Caffe distributed it (`bvlc_reference_caffenet`): two groups in
conv2, conv4 and conv5, as if still split over two GPUs, and local response normalisation *after*
pooling. torchvision's AlexNet is a later one, with other widths, without groups and without
normalisation, so CaffeNet's weights do not fit it.
"""

import torch
from torch import Tensor, nn


class LocalResponseNorm(nn.LocalResponseNorm):
    """torch's, in 32 bits.

    In bf16 torch has no average over channels on the CPU, and in fp16 the square of an activation
    from 256 on is infinite.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps, BxCxHxW, in the number format of `x`."""
        return super().forward(x.float()).to(x.dtype)


class CaffeNet(nn.Module):
    """The classifier, laid out as torchvision lays out its AlexNet: `features`, `classifier`.

    Args:
        num_classes: Of the last layer.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 11, stride=4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            # Caffe divides alpha by the window's size, and so does PyTorch.
            LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0),
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
        )
        self.classifier = nn.Sequential(
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores, BxK, of normalised images, Bx3x227x227."""
        scores: Tensor = self.classifier(torch.flatten(self.features(images), 1))
        return scores
