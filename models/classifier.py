"""A hosted network as one differentiable function from input to logits."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from models.errors import ModelLoadFailed


class Classifier(nn.Module):
    """A network with its owner's postprocessing: inputs (N, C, H, W) give logits (N, K).

    Args:
        network: In eval mode.
        postprocess: The owner's hook, from the network's output to logits.
        num_classes: K, as the card's labels say; unset where it has none.
        name: Of the model, for messages.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        *,
        postprocess: Callable[[Tensor], Tensor] | None = None,
        num_classes: int | None = None,
        name: str = "the model",
    ) -> None:
        super().__init__()
        self.network = network
        self._postprocess = postprocess
        self._num_classes = num_classes
        self._name = name

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the logits (N, K) of a batch.

        Raises:
            ModelLoadFailed: The output has another shape.
        """
        logits: Tensor = self.network(inputs)
        if self._postprocess is not None:
            logits = self._postprocess(logits)
        if logits.ndim != 2 or self._num_classes not in (None, logits.shape[1]):
            raise ModelLoadFailed(
                f"Expected logits of shape (N, {self._num_classes or 'K'}) from {self._name}, got "
                f"{tuple(logits.shape)}. Mend the network, the card's labels or its postprocess hook."
            )
        return logits
