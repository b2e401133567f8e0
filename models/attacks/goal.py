"""What an attack wants of the logits.

Shape suffixes: N images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Goal:
    """Away from the right class, or towards another one.

    Attributes:
        true_class: The right class.
        target: The class to lead to; none for any but the right one.
    """

    true_class: int
    target: int | None = None

    @property
    def pivot(self) -> int:
        """The class whose logit is held against the largest of the others."""
        return self.true_class if self.target is None else self.target

    def margins(self, logits_NK: Tensor) -> Tensor:
        """Say by how much the goal is reached; positive where the network is fooled.

        Args:
            logits_NK: At least two classes.

        Returns:
            Untargeted the largest other logit minus the right one; targeted the target's minus the largest other.
        """
        lead_N = self._others(logits_NK).amax(dim=1) - logits_NK[:, self.pivot]
        return lead_N if self.target is None else -lead_N

    def ascent(self, logits_NK: Tensor) -> Tensor:
        """Give the gradient of the cross-entropy that the attack climbs, up to a positive factor per image.

        The plain gradient, softmax minus one-hot, becomes zero in single precision once the network is sure, and an
        attack would stand still. Divided by one minus the pivot's probability it is the softmax over the other classes
        minus one-hot, whose length does not depend on how sure the network is. Neither norm's step sees the factor.

        Returns:
            Of the logits' shape.
        """
        direction_NK = self._others(logits_NK).softmax(dim=1)
        direction_NK[:, self.pivot] = -1
        return direction_NK if self.target is None else -direction_NK

    def _others(self, logits_NK: Tensor) -> Tensor:
        others_NK = logits_NK.detach().float().clone()
        others_NK[:, self.pivot] = float("-inf")
        return others_NK
