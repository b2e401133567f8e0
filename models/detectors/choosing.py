"""From a network to its detector."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD

from models.detectors.base import Detector
from models.detectors.one_stage import OneStage
from models.detectors.two_stage import TwoStage
from models.detectors.yolo import Yolo
from models.errors import ModelLoadFailed


def make_detector(
    network: nn.Module,
    *,
    input_size_px: int | None = None,
    iou_threshold: float | None = None,
    nms_free: bool = False,
) -> Detector:
    """Wrap a detection network.

    Args:
        network: One of torchvision's detection classes, or an ultralytics network, in eval mode on its device.
        input_size_px: Longer side of the input; ``None`` means the network's own.
        iou_threshold: Of the suppression of doubles; ``None`` means the network's own.

        nms_free: Use the head that was trained one-to-one and needs no suppression (YOLO v10 and 26).

    Raises:
        ModelLoadFailed: It is neither, its head finds no boxes, or it has no such head.
    """
    # By name: ultralytics must not be imported for the sake of other networks.
    is_ultralytics = any(cls.__module__ == "ultralytics.nn.tasks" for cls in type(network).__mro__)
    if nms_free and not is_ultralytics:
        raise ModelLoadFailed(f"Expected nms_free with YOLO v10 or 26 only, got {type(network).__name__}.")
    if isinstance(network, GeneralizedRCNN):
        return TwoStage(network, input_size_px=input_size_px, iou_threshold=iou_threshold)
    if isinstance(network, (RetinaNet, FCOS, SSD)):
        return OneStage(network, input_size_px=input_size_px, iou_threshold=iou_threshold)
    if is_ultralytics:
        return Yolo(network, input_size_px=input_size_px, iou_threshold=iou_threshold, nms_free=nms_free)
    raise ModelLoadFailed(
        "Expected a detection network: torchvision's FasterRCNN, MaskRCNN, KeypointRCNN, RetinaNet, FCOS or SSD, or a "
        f"YOLO of ultralytics, got {type(network).__name__}."
    )
