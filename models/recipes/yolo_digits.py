"""Trains ``yolo-digits``: YOLO11n from scratch on pages of handwritten digits, in about 20 minutes on two cores.

ultralytics gives the network and its loss; its own trainer, which computes in fp32 on one core of two, is left aside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from models.networks import yolo
from models.recipes import detection, pages
from models.recipes.coco import AveragePrecision
from models.recipes.detector_cards import Facts, publish

PLAN = detection.Plan(num_pages=4000, epochs=8)
"""32,000 looks at a page."""
GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
"""Weights of the loss's parts: ultralytics' own defaults."""
FACTS = Facts(
    name="yolo-digits",
    description="YOLO11n that finds and reads handwritten digits of 24-80 px on textured pages of 320 px",
    network="ultralytics:yolo11n",
    arguments={"nc": 10},
    labels=tuple("0123456789"),
    iou_threshold=0.6,
    input_size_px=320,
    licence="AGPL-3.0-only",
    licence_reason="the network and its loss are ultralytics' own, which are under that licence",
    origin="YOLO11n as ultralytics describes it; trained from scratch by this project's recipe",
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
    network = yolo.build("yolo11n", nc=10).to(memory_format=torch.channels_last)
    detection.fit(network, loss_of(network), pages.training(), PLAN, report=report)
    return publish(folder, network, FACTS, PLAN, report=report)


def loss_of(network: Any) -> Callable[[detection.Batch], Tensor]:
    """Make the function that gives the mean loss of a batch, and let the network compute in bf16."""
    network.args = SimpleNamespace(**GAINS)
    criterion = network.init_criterion()
    detection.in_bf16(network)

    def loss(batch: detection.Batch) -> Tensor:
        parts, _ = criterion(network(batch.x_NCHW), targets(batch))
        mean: Tensor = parts.sum() / len(batch.x_NCHW)
        return mean

    return loss


def targets(batch: detection.Batch) -> dict[str, Tensor]:
    """Give the truth as ultralytics has it: page, class and box of each object, boxes cxcywh in parts of the side."""
    side = batch.x_NCHW.shape[-1]
    return {
        "batch_idx": torch.cat([torch.full((len(labels),), page) for page, labels in enumerate(batch.labels)]).float(),
        "cls": torch.cat(batch.labels).float(),
        "bboxes": box_convert(torch.cat(batch.boxes_xyxy), "xyxy", "cxcywh") / side,
    }
