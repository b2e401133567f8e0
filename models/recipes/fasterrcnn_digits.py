"""Trains ``fasterrcnn-digits``: a small Faster R-CNN on pages of digits, in 44 minutes on two shared cores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from models.networks.fasterrcnn import fasterrcnn_small
from models.recipes import detection, pages
from models.recipes.coco import AveragePrecision
from models.recipes.detector_cards import Facts, publish

PLAN = detection.Plan(num_pages=4000, epochs=7, batch=8, peak_rate=1.5e-3)
"""28,000 looks at a page."""
PROPOSALS: dict[str, Any] = {
    "rpn_pre_nms_top_n_train": 600,
    "rpn_post_nms_top_n_train": 300,
    "box_batch_size_per_image": 96,
    "box_positive_fraction": 0.33,
}
"""Fewer than torchvision's defaults, which are meant for photographs of 800 px."""
FACTS = Facts(
    name="fasterrcnn-digits",
    description="Small Faster R-CNN that finds and reads handwritten digits of 24-80 px on textured pages of 320 px",
    network="fasterrcnn_small",
    arguments={"num_classes": 11, "rpn_pre_nms_top_n_test": 300, "rpn_post_nms_top_n_test": 100},
    # Class 0 of torchvision's two-stage networks is the background.
    labels=("__background__", *"0123456789"),
    licence="Apache-2.0",
    origin="Ren, He, Girshick, Sun 2015 (Faster R-CNN), torchvision's implementation over a small residual backbone "
    "with a feature pyramid; trained from scratch by this project's recipe",
)
"""What the card says that no training changes."""


def train(folder: Path, *, report: Callable[[str], None]) -> AveragePrecision:
    """Train, measure on the held-out pages, write the model.

    Args:
        folder: Where ``card.toml``, the weights and the parity pictures are written.
        report: Told of each step, in one line.

    Returns:
        What was measured on the held-out pages.
    """
    torch.set_num_threads(detection.NUM_THREADS)
    torch.manual_seed(detection.SEED)
    network = fasterrcnn_small(**FACTS.arguments, **PROPOSALS).to(memory_format=torch.channels_last)
    detection.fit(network, loss_of(network), pages.training(), PLAN, report=report)
    return publish(folder, network, FACTS, PLAN, report=report)


def loss_of(network: FasterRCNN) -> Callable[[detection.Batch], Tensor]:
    """Make the function that gives the mean loss of a batch, and let the network's layers compute in bf16."""
    for part in (network.backbone, network.rpn.head, network.roi_heads.box_head):
        detection.in_bf16(part)

    def loss(batch: detection.Batch) -> Tensor:
        truth = [
            {"boxes": boxes, "labels": labels + 1} for boxes, labels in zip(batch.boxes_xyxy, batch.labels, strict=True)
        ]
        parts: dict[str, Tensor] = network(list(batch.x_NCHW), truth)
        return torch.stack(list(parts.values())).sum()

    return loss
