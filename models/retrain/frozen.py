"""Training on frozen features: they are computed once, then a linear layer is fitted to them.

Shape suffixes: N samples, D features, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from models.retrain.augment import augmented
from models.retrain.base import Base
from models.retrain.dataset import Dataset
from models.retrain.options import PATIENCE, Report, RetrainOptions

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Samples:
    """Features and classes."""

    features: Matrix
    """float32 of shape (N, D)."""
    targets: NDArray[np.int64]
    """int64 of shape (N,)."""
    groups: NDArray[np.int64]
    """int64 of shape (N,): from which picture each comes, since versions of one must stay together."""


@dataclass(frozen=True)
class Fitted:
    """A linear layer on features as the network gives them, and how it came about."""

    weight: Matrix
    """float32 of shape (K, D)."""
    bias: NDArray[np.float32]
    """float32 of shape (K,)."""
    told: str
    """How it came about, in a sentence."""


def compute(
    base: Base,
    data: Dataset,
    indices: Sequence[int],
    options: RetrainOptions,
    report: Report,
    *,
    part: str,
    views: int = 1,
) -> Samples:
    """Compute the features of some pictures.

    Args:
        base: The network.
        data: The pictures.
        indices: Which of them.
        options: Batch, augmentation, seed.
        report: Told of every batch.
        part: What the pictures are, for the report.
        views: Versions of each picture: the first as it is, the others augmented.
    """
    random, features, found = torch.Generator().manual_seed(options.seed), base.features(), list[Tensor]()
    total = views * len(indices)
    with torch.inference_mode():
        for view in range(views):
            for inputs_NCHW in data.batches(indices, options.batch):
                varied = augmented(inputs_NCHW, options.augmentation, random) if view else inputs_NCHW
                found.append(features(varied.to(base.device)).cpu())
                report(f"features of {part}", sum(map(len, found)), total, "")
    targets, groups = data.target_array(indices), np.asarray(indices, dtype=np.int64)
    return Samples(torch.cat(found).numpy(), np.tile(targets, views), np.tile(groups, views))


def fit_linear(
    training: Samples, validation: Samples, num_classes: int, options: RetrainOptions, report: Report
) -> Fitted:
    """Fit multinomial logistic regression by AdamW; the lowest validation loss decides when it is done."""
    scaler = StandardScaler().fit(training.features)
    inputs, held = (torch.from_numpy(scaler.transform(part.features)).float() for part in (training, validation))
    targets, held_targets = torch.from_numpy(training.targets), torch.from_numpy(validation.targets)
    random = torch.Generator().manual_seed(options.seed)
    layer = nn.Linear(inputs.shape[1], num_classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=options.rate, weight_decay=options.weight_decay)
    stopping = EarlyStopping(options)
    for epoch in range(1, options.max_epochs + 1):
        order = torch.randperm(len(inputs), generator=random)
        for start in range(0, len(order), options.batch):
            chosen = order[start : start + options.batch]
            loss = nn.functional.cross_entropy(layer(inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        with torch.inference_mode():
            logits_NK = layer(held)
            held_loss = float(nn.functional.cross_entropy(logits_NK, held_targets))
            accuracy = float((logits_NK.argmax(1) == held_targets).float().mean())
        report("training", epoch, options.max_epochs, f"loss {held_loss:.3f}, {accuracy:.1%} right")
        if stopping.should_stop(layer, epoch, held_loss):
            break
    layer.load_state_dict(stopping.best_state)
    weight, bias = (parameter.detach().double().numpy() for parameter in (layer.weight, layer.bias))
    told = (
        "Last layer fitted to standardised frozen features by AdamW, kept after epoch "
        f"{stopping.best_epoch} of at most {options.max_epochs}."
    )
    return unscaled(weight, bias, scaler, told)


def unscaled(weight_KD: NDArray[np.float64], bias_K: NDArray[np.float64], scaler: StandardScaler, told: str) -> Fitted:
    """Fold the standardisation of the features into the layer that was fitted to standardised ones."""
    weight = weight_KD / scaler.scale_
    bias = bias_K - weight @ scaler.mean_
    return Fitted(weight.astype(np.float32), bias.astype(np.float32), told)


class EarlyStopping:
    """Remembers the weights with the lowest validation loss, and says when to give up waiting for lower ones."""

    def __init__(self, options: RetrainOptions) -> None:
        self.best_epoch = 0
        self.best_loss = float("inf")
        self.best_state: dict[str, Tensor] = {}
        self._patience = PATIENCE[options.mode]

    def should_stop(self, network: nn.Module, epoch: int, loss: float) -> bool:
        """Note one epoch's validation loss."""
        if loss < self.best_loss or not self.best_state:
            self.best_epoch, self.best_loss = epoch, loss
            self.best_state = copy.deepcopy(network.state_dict())
        return epoch - self.best_epoch >= self._patience
