"""LeNet-5 (LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998).

Shape suffixes: N images, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn


class LeNet5(nn.Module):
    """The paper's layers, with a linear output in place of its radial basis functions.

    Args:
        num_classes: K, the number of outputs.
        in_channels: C, the number of input channels.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)
        self.pool = nn.AvgPool2d(kernel_size=2)
        self.activation = nn.Tanh()

    def features(self, x_NCHW: Tensor) -> Tensor:
        """Describe each image by the 84 activations below the output.

        Args:
            x_NCHW: float32 of shape (N, C, 32, 32).

        Returns:
            float32 of shape (N, 84), each in [-1, 1].
        """
        x_N6HW = self.pool(self.activation(self.c1(x_NCHW)))  # 28x28, pooled to 14x14
        x_N16HW = self.pool(self.activation(self.c3(x_N6HW)))  # 10x10, pooled to 5x5
        x_ND = self.activation(self.c5(x_N16HW)).flatten(1)
        features: Tensor = self.activation(self.f6(x_ND))
        return features

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Classify; gives logits of shape (N, K) for inputs of shape (N, C, 32, 32)."""
        logits_NK: Tensor = self.output(self.features(x_NCHW))
        return logits_NK
