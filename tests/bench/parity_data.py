"""Held-out pictures of the bundled models, and what counts as the same answer.

Shape suffixes: N images, C channels, K classes, H height, W width.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.detectors import Found
from models.recipes import cells, coco, digits, pages, stn_canvases
from models.recipes.measuring import DIGITS, MIN_SCORE
from models.recipes.unet_cells_measure import HELD_OUT_SEEDS
from tests.bench.common import encoded

MIN_AGREEMENT = 0.995
"""Least share of pictures, or pixels, with the same best class."""
MAX_DELTA_P = 0.02
"""Largest difference in any probability of a picture's class."""
MAX_POINTS = 0.5
"""Largest difference in accuracy measured against the truth, in points of 100."""
NUM_LARGE, LARGE_PX = 600, 512
"""Number and side of the photographs whose decoding is scaled."""


@dataclass(frozen=True)
class Figures:
    """What a policy costs against fp32 without any of it."""

    same: float | None = None
    """Share of the same best class."""
    max_delta_p: float | None = None
    """Largest difference in a probability."""
    measure: str = ""
    """What is measured against the truth."""
    exact: float = 0.0
    """That of fp32, in points of 100."""
    quick: float = 0.0
    """That of the policy."""

    @property
    def holds(self) -> bool:
        """Whether all that is stated of this task is within its target."""
        same = self.same is None or self.same >= MIN_AGREEMENT
        near = self.max_delta_p is None or self.max_delta_p <= MAX_DELTA_P
        return same and near and abs(self.exact - self.quick) <= MAX_POINTS


class HeldOut(ABC):
    """Pictures of one task that training never saw.

    Attributes:
        task: Its name.
        options: With which the task is asked.
        files: The encoded pictures.
    """

    task: str
    options: ClassVar[Mapping[str, Any]] = {}
    files: Sequence[bytes]

    @abstractmethod
    def compare(self, exact: Sequence[Any], quick: Sequence[Any]) -> Figures:
        """Compare two sets of what the task's ``forward`` gave, one entry for each picture."""

    def enlarged(self) -> HeldOut | None:
        """Some of the same as JPEGs of the size of photographs, for tasks that decode such at a part of their size."""
        return None


class Classes(HeldOut):
    """Pictures of one class each."""

    def __init__(self, files: Sequence[bytes], truth_N: NDArray[np.int64], task: str = "classification") -> None:
        self.task = task
        self.files = files
        self._truth = torch.from_numpy(truth_N)

    def compare(self, exact: Sequence[Any], quick: Sequence[Any]) -> Figures:
        """Compare best classes and probabilities (K,), and what share is right."""
        exact_NK, quick_NK = torch.stack(list(exact)), torch.stack(list(quick))
        best = exact_NK.argmax(1), quick_NK.argmax(1)
        right = [100 * float((one == self._truth).float().mean()) for one in best]
        same = float((best[0] == best[1]).float().mean())
        return Figures(same, float((exact_NK - quick_NK).abs().max()), "accuracy", *right)

    def enlarged(self) -> HeldOut:
        """The first of them."""
        files = [_enlarged(file) for file in self.files[:NUM_LARGE]]
        return Classes(files, self._truth[:NUM_LARGE].numpy(), self.task)


class Pixels(HeldOut):
    """Scenes with the class of every pixel."""

    task = "segmentation"
    options: ClassVar[Mapping[str, Any]] = {"probabilities": True, "instances": False}

    def __init__(self, scenes: Sequence[cells.Scene]) -> None:
        self.files = [encoded(scene.image, "PNG") for scene in scenes]
        self._truth = [torch.from_numpy(scene.classes.astype(np.int64)) for scene in scenes]

    def compare(self, exact: Sequence[Tensor], quick: Sequence[Tensor]) -> Figures:
        """Compare classes of pixels, from probabilities (K, H, W), and mean IoU."""
        best = [[one_KHW.argmax(0) for one_KHW in some] for some in (exact, quick)]
        same = [float((one == other).float().mean()) for one, other in zip(*best, strict=True)]
        ious = [100 * self._mean_iou(some) for some in best]
        return Figures(float(np.mean(same)), None, "mean IoU", *ious)

    def _mean_iou(self, found: Sequence[Tensor]) -> float:
        """Mean over the classes, all pixels together, as the model's recipe measures it."""
        shared, either = (torch.zeros(len(cells.LABELS)) for _ in range(2))
        for one_HW, truth_HW in zip(found, self._truth, strict=True):
            for class_id in range(len(cells.LABELS)):
                mine, true = one_HW == class_id, truth_HW == class_id
                shared[class_id] += (mine & true).sum()
                either[class_id] += (mine | true).sum()
        return float((shared / either).mean())


class Boxes(HeldOut):
    """Pages of digits with their boxes."""

    task = "detection"
    options: ClassVar[Mapping[str, Any]] = {"score_threshold": MIN_SCORE, "max_detections": coco.MAX_DETECTIONS}

    def __init__(self, drawn: Sequence[pages.Page], labels: Sequence[str]) -> None:
        self.files = [encoded(page.pixels, "PNG") for page in drawn]
        self._pages = drawn
        self._digit_of = {index: DIGITS.index(label) for index, label in enumerate(labels) if label in DIGITS}

    def compare(self, exact: Sequence[Found], quick: Sequence[Found]) -> Figures:
        """Compare mAP50-95, by pycocotools."""
        return Figures(None, None, "mAP50-95", 100 * self._map(exact), 100 * self._map(quick))

    def _map(self, found: Sequence[Found]) -> float:
        left = iter(found)

        def detect(pictures: Sequence[NDArray[np.uint8]]) -> list[coco.Detections]:
            return [self._as_digits(next(left)) for _ in pictures]

        return coco.evaluate(detect, self._pages, DIGITS).map50_95

    def _as_digits(self, found: Found) -> coco.Detections:
        labels = np.array([self._digit_of[index] for index in found.class_ids.tolist()], np.int64)
        return coco.Detections(found.boxes_xyxy.numpy(), found.scores.numpy(), labels)


def held_out(model: str, labels: Sequence[str]) -> HeldOut:
    """Give the pictures that a bundled model's card is measured on."""
    if model == "lenet-digits":
        chosen = digits.test_split()
        return Classes([encoded(digits.pixels()[index], "PNG") for index in chosen], digits.targets()[chosen])
    if model == "unet-cells":
        return Pixels([cells.scene(seed, held_out=True) for seed in HELD_OUT_SEEDS])
    if model in ("yolo-digits", "fasterrcnn-digits"):
        return Boxes(pages.held_out_pages(), labels)
    canvases = stn_canvases.held_out()
    task = "spatial_transformer" if model == "stn-digits" else "classification"
    return Classes([encoded(levels, "PNG") for levels in canvases.levels()], canvases.targets.numpy(), task)


def _enlarged(file: bytes) -> bytes:
    image = Image.open(io.BytesIO(file)).resize((LARGE_PX, LARGE_PX), Image.Resampling.BICUBIC)
    return encoded(np.asarray(image), "JPEG", quality=90)
