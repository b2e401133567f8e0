"""Fine-tuning of all layers, from a head that was first fitted to frozen features.

Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", 2022: a head that
starts at random would pull the features about before it is of any use.

Shape suffixes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.retrain.augment import augmented
from models.retrain.base import Base
from models.retrain.dataset import Dataset
from models.retrain.frozen import EarlyStopping, Fitted, compute, fit_linear
from models.retrain.options import Report, RetrainOptions


def fine_tune(
    base: Base,
    data: Dataset,
    training: Sequence[int],
    validation: Sequence[int],
    options: RetrainOptions,
    report: Report,
) -> int:
    """Train every layer; normalisation keeps the statistics of the base, which small batches would only blur.

    Args:
        base: Its network is changed in place, and has the head of the new classes afterwards.
        data: The pictures.
        training: Indices of those to train on.
        validation: Indices of those that decide when it is done.
        options: How.
        report: Told of every epoch.

    Returns:
        The epoch whose weights were kept; 0 if none improved on the head alone.
    """
    head = _fit_head(base, data, training, validation, options, report)
    base.replace(torch.from_numpy(head.weight), torch.from_numpy(head.bias))
    torch.manual_seed(options.seed)
    random = torch.Generator().manual_seed(options.seed)
    parameters = [parameter for parameter in base.network.parameters() if parameter.is_floating_point()]
    optimizer = torch.optim.AdamW(parameters, lr=options.rate, weight_decay=options.weight_decay)
    stopping = EarlyStopping(options)
    stopping.should_stop(base.network, 0, _loss(base, data, validation, options)[0])
    for epoch in range(1, options.max_epochs + 1):
        _train_epoch(base, data, training, options, optimizer, random)
        loss, accuracy = _loss(base, data, validation, options)
        report("fine-tuning", epoch, options.max_epochs, f"loss {loss:.3f}, {accuracy:.1%} right")
        if stopping.should_stop(base.network, epoch, loss):
            break
    base.network.load_state_dict(stopping.best_state)
    return stopping.best_epoch


def _fit_head(
    base: Base,
    data: Dataset,
    training: Sequence[int],
    validation: Sequence[int],
    options: RetrainOptions,
    report: Report,
) -> Fitted:
    plain = replace(options, mode="head", epochs=None, learning_rate=None)
    samples = compute(base, data, training, plain, report, part="training")
    held = compute(base, data, validation, plain, report, part="validation")
    return fit_linear(samples, held, len(data.labels), plain, report)


def _train_epoch(
    base: Base,
    data: Dataset,
    training: Sequence[int],
    options: RetrainOptions,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
) -> None:
    network = base.network.train().requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    order = [training[at] for at in torch.randperm(len(training), generator=random).tolist()]
    done = 0
    for inputs_NCHW in data.batches(order, options.batch):
        targets_N = torch.from_numpy(data.target_array(order[done : done + len(inputs_NCHW)])).to(base.device)
        done += len(inputs_NCHW)
        varied_NCHW = augmented(inputs_NCHW, options.augmentation, random).to(base.device)
        loss = nn.functional.cross_entropy(base.logits(varied_NCHW), targets_N)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    network.eval().requires_grad_(False)


def _loss(base: Base, data: Dataset, indices: Sequence[int], options: RetrainOptions) -> tuple[float, float]:
    targets_N = torch.from_numpy(data.target_array(indices))
    logits_NK = all_logits(base, data, indices, options)
    right = (logits_NK.argmax(dim=1) == targets_N).float().mean()
    return float(nn.functional.cross_entropy(logits_NK, targets_N)), float(right)


@torch.inference_mode()
def all_logits(base: Base, data: Dataset, indices: Sequence[int], options: RetrainOptions) -> Tensor:
    """Give what the network says to some pictures: float32 of shape (N, K), on the CPU."""
    batches = data.batches(indices, options.batch)
    return torch.cat([base.logits(inputs_NCHW.to(base.device)).float().cpu() for inputs_NCHW in batches])
