"""What an explanation starts from: the network's input, what stands for nothing there, and the method's numbers.

Shape suffixes: 1 one image, B baselines, C channels, H height, W width.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models.attribution import Question, Settings
from models.attribution.curves import blurred
from models.attribution.superpixels import cut, levels
from models.cards import Preprocessing
from models.preprocess import Preprocess, bounds
from visionpipe.drawing.canvas import open_canvas
from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.requests import ExplanationOptions
from workers.work import Work

NUM_NOISE_BASELINES = 16
"""Noise pictures from which GradientSHAP draws."""
MAX_VALUES = 2**26
"""Values in all attributions of one image: 256 MiB in the store."""
MAX_OVERLAY_PX = 1280
"""Longer side of an overlay at most."""
_GREYS = {"black": 0.0, "gray": 0.5, "white": 1.0}


@dataclass(frozen=True)
class Prepared:
    """One image on the CPU, and what the options want of it.

    Attributes:
        x_1CHW: The network's input.
        baselines_BCHW: What stands for nothing there; the first is the one for methods that take one.
        segments_HW: Superpixels of the input, for LIME and KernelSHAP.
        settings: Of the method.
        targets: Classes to explain; unset means the most probable one.
        picture: What overlays are drawn on, if they are.
    """

    x_1CHW: Tensor
    baselines_BCHW: Tensor
    segments_HW: NDArray[np.int64] | None
    settings: Settings
    targets: tuple[int, ...] | None
    picture: Image.Image | None

    def question(
        self, classifier: nn.Module, target: int, *, preprocessing: Preprocessing, device: torch.device, **more: Any
    ) -> Question:
        """Ask about one class."""
        low_C, high_C = bounds(preprocessing)
        baselines_BCHW = self.baselines_BCHW.to(device)
        return Question(
            classifier,
            self.x_1CHW.to(device),
            target,
            baselines_BCHW[:1],
            low_C.to(device),
            high_C.to(device),
            baselines_BCHW=baselines_BCHW,
            segments_HW=self.segments_HW,
            **more,
        )


def prepare(work: Work, preprocessing: Preprocessing, *, targets: tuple[int, ...] | None, max_batch: int) -> Prepared:
    """Make the input, the baselines and the superpixels of one image; the pictures that options name are read here.

    Raises:
        InvalidRequestError: The baseline picture cannot be brought to the input's size.
        UnsupportedOption: The picture cannot be cut into superpixels.
    """
    assert work.image is not None
    options = options_of(work)
    _check_room(work, len(targets or (0,)))
    # Imported here, since the first explanation would otherwise keep the device waiting for a second or two.
    importlib.import_module("captum.attr")
    image = work.image.image
    x_1CHW = Preprocess(preprocessing)(image)[None]
    segments_HW = None
    if options.method in ("lime", "kernel_shap"):
        pieces = options.superpixels
        picture = levels(x_1CHW, *bounds(preprocessing))
        importlib.import_module("captum._utils.models.linear_model")
        importlib.import_module("sklearn.linear_model")
        segments_HW = cut(picture, pieces.algorithm, count=pieces.count, compactness=pieces.compactness)
    return Prepared(
        x_1CHW,
        _baselines(work, x_1CHW, image.size, preprocessing),
        segments_HW,
        settings(options, max_batch=max_batch),
        targets,
        open_canvas(image, None, max_side_px=MAX_OVERLAY_PX).picture if options.overlay else None,
    )


def _check_room(work: Work, num_targets: int) -> None:
    assert work.size_wh is not None
    num_pixels = work.size_wh[0] * work.size_wh[1]
    if num_targets * num_pixels > MAX_VALUES:
        raise InvalidRequestError(
            f"Expected at most {MAX_VALUES:,} values in the attributions of one image, got {num_targets} targets times "
            f"{num_pixels:,} pixels. Ask for fewer targets, or send a smaller form of the picture.",
            fields=["options.targets"],
        )


def settings(options: ExplanationOptions, *, max_batch: int) -> Settings:
    """Take the method's numbers."""
    return Settings(
        method=options.method,
        steps=options.steps,
        samples=options.samples,
        noise=options.noise,
        layer=options.layer,
        window_px=options.window_px,
        stride_px=options.stride_px,
        algorithm=options.superpixels.algorithm,
        count=options.superpixels.count,
        compactness=options.superpixels.compactness,
        kernel_width=options.kernel_width,
        ridge=options.ridge,
        seed=options.seed,
        max_batch=max_batch,
    )


def options_of(work: Work) -> ExplanationOptions:
    """Give the options of a request for explanations."""
    assert isinstance(work.request.options, ExplanationOptions)
    return work.request.options


def _baselines(work: Work, x_1CHW: Tensor, size_wh: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    options = options_of(work)
    low_C11, high_C11 = (value.view(-1, 1, 1) for value in bounds(preprocessing))
    if options.baseline == "mean":
        return torch.zeros_like(x_1CHW)
    if options.baseline == "blur":
        return blurred(x_1CHW)
    if options.baseline == "noise":
        random = np.random.default_rng(options.seed)
        number = NUM_NOISE_BASELINES if options.method == "gradient_shap" else 1
        noise = torch.from_numpy(random.random((number, *x_1CHW.shape[1:]), dtype=np.float32))
        return low_C11 + noise * (high_C11 - low_C11)
    if options.baseline == "image":
        return _picture(work, x_1CHW, size_wh, preprocessing)
    level = _GREYS[options.baseline]
    return (low_C11 + level * (high_C11 - low_C11)).expand_as(x_1CHW).clone()


def _picture(work: Work, x_1CHW: Tensor, size_wh: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    reference = options_of(work).baseline_image
    assert reference is not None
    image = work.read(reference).image
    baseline_1CHW = Preprocess(preprocessing)(image)[None]
    if baseline_1CHW.shape != x_1CHW.shape:
        # Only networks that take any size come here.
        aspects = [math.log(width / height) for width, height in (image.size, size_wh)]
        if abs(aspects[0] - aspects[1]) > math.log(2):
            raise InvalidRequestError(
                f"Expected a baseline_image of about the image's shape, {size_wh[0]}x{size_wh[1]}, got "
                f"{image.width}x{image.height}. Crop it to that shape.",
                fields=["options.baseline_image"],
            )
        baseline_1CHW = Preprocess(preprocessing)(image.resize(size_wh, Image.Resampling.BILINEAR))[None]
    return baseline_1CHW
