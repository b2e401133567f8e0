"""Measures a digit detector anew: ``python -m models.recipes.measuring NAME`` prints what its card says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from models.catalog import Catalog, Entry
from models.detectors import Wanted, make_detector
from models.loading import load
from models.recipes import coco, pages

DIGITS = tuple("0123456789")
"""Names of the classes of pages."""
MIN_SCORE = 0.005
"""Weaker detections are not measured."""


def measure(entry: Entry, measured: Sequence[pages.Page]) -> coco.AveragePrecision:
    """Measure a digit detector of the catalog on pages, in fp32.

    Args:
        entry: Its labels are digits, besides a background.
        measured: The pages.
    """
    return coco.evaluate(detector(entry), measured, DIGITS)


def detector(entry: Entry) -> coco.Detector:
    """Load a digit detector of the catalog."""
    defaults = entry.card.detection
    found_by = make_detector(
        load(entry).to(memory_format=torch.channels_last),
        input_size_px=defaults.input_size_px,
        iou_threshold=defaults.iou_threshold,
    )
    wanted = Wanted(score_threshold=MIN_SCORE, max_detections=coco.MAX_DETECTIONS)
    digit_of = {index: DIGITS.index(label) for index, label in enumerate(entry.card.labels) if label in DIGITS}

    def detect(pictures: Sequence[NDArray[np.uint8]]) -> list[coco.Detections]:
        batch = [found_by.prepare(picture) for picture in pictures]
        return [
            coco.Detections(
                found.boxes_xyxy.numpy(),
                found.scores.numpy(),
                np.array([digit_of[index] for index in found.class_ids.tolist()], np.int64),
            )
            for found in found_by.detect(batch, [wanted] * len(batch))
        ]

    return detect


def described(measured: coco.AveragePrecision) -> str:
    """Say in one line what was measured."""
    return (
        f"mAP50 {measured.map50:.4f}, mAP50-95 {measured.map50_95:.4f} "
        f"({measured.num_objects} digits on {measured.num_pages} pages)"
    )


def main() -> None:
    """Parse the command line, measure one bundled detector on the held-out pages, print."""
    parser = argparse.ArgumentParser(prog="python -m models.recipes.measuring", description=__doc__)
    parser.add_argument("name", help="yolo-digits or fasterrcnn-digits")
    console = Console()
    measured = measure(Catalog().find(parser.parse_args().name), pages.held_out_pages())
    console.print(described(measured))
    for label, value in measured.per_class.items():
        console.print(f"  {label}: mAP50-95 {value:.4f}")


if __name__ == "__main__":
    main()
