"""JPEGs decoded, resized and cropped on a CUDA device, where that is quicker than the worker's cores alone.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import torch
from torch import Tensor

from models.images import decode
from models.jpeg import common_size_wh
from models.parity import synthetic
from models.preprocess import Preprocess
from visionpipe.settings import Settings
from workers.cuda import Cuda
from workers.device import default_decode_threads, free_memory, is_fatal, is_out_of_memory
from workers.hosted import HostedModel
from workers.runtime import Runtime

logger = logging.getLogger("visionpipe.cuda")

MAX_PIXELS = 2**24
"""Larger pictures are decoded by the cores, at a fraction of their size."""
MAX_TOGETHER_PIXELS = 2**26
"""Pixels that are decoded together: 200 MB, and as much again for each picture's floats in turn."""
MAX_MEAN_DELTA = 1.0
"""Grey levels by which the input may differ from Pillow's, in the mean: decoders differ in how they enlarge colours."""
PROBES = 16
"""Pictures that are decoded to find out who is quicker."""
PROBE_WH = (640, 480)
TASK = "classification"
"""Whose inputs are made on the device."""

Found = tuple[Tensor, tuple[int, int]]


def decode_there(files: Sequence[bytes], device: torch.device) -> list[Tensor]:
    """Decode common JPEGs together; gives uint8 (3, H, W) each. All fail if one does."""
    # Importing it takes a second, which workers on a CPU can do without.
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    pixels: list[Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    return pixels


class Decoder:
    """Makes network inputs of JPEGs on the device; safe in threads, whose files are decoded together.

    Args:
        cuda: The device.
        preprocess: What the card says.
        most: Threads that wait here at once; others are sent away, and use the cores meanwhile.
        max_pixels: Larger pictures are for others.
        decode_files: Decodes several files.
    """

    def __init__(
        self,
        cuda: Cuda,
        preprocess: Preprocess,
        *,
        most: int,
        max_pixels: int = MAX_PIXELS,
        decode_files: Callable[[Sequence[bytes], torch.device], list[Tensor]] = decode_there,
    ) -> None:
        self._cuda = cuda
        self._preprocess = preprocess
        self._most = most
        self._max_pixels = min(max_pixels, MAX_PIXELS)
        self._decode_files = decode_files
        self._waiting: deque[tuple[bytes, int, Future[Tensor | None]]] = deque()
        self._inside = 0
        self._loudness = logging.WARNING
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def __call__(self, data: bytes) -> Found | None:
        """Make the input, uint8 (C, H, W) on the device, and tell the picture's size; ``None`` if it is for others."""
        size_wh = common_size_wh(data)
        if size_wh is None or size_wh[0] * size_wh[1] > self._max_pixels:
            return None
        if self._preprocess.resized_there(*size_wh) is None:
            return None
        future: Future[Tensor | None] = Future()
        with self._lock:
            if self._inside >= self._most:
                return None
            self._inside += 1
            self._waiting.append((data, size_wh[0] * size_wh[1], future))
        try:
            while not future.done():
                with self._turn:
                    # Whoever's turn it is decodes what has gathered behind the one before; often that was done for it.
                    if not future.done():
                        self._decode_waiting()
            levels = future.result()
        finally:
            with self._lock:
                self._inside -= 1
        return None if levels is None else (levels, size_wh)

    def levels(self, files: Sequence[bytes]) -> list[Tensor | None]:
        """Decode files together and make inputs of them; those of a group with a damaged one are for others.

        Raises:
            torch.AcceleratorError: The device is of no more use.
        """
        try:
            with torch.inference_mode(), self._cuda.beside():
                pixels = self._decode_files(files, self._cuda.device)
                levels = [self._preprocess.levels_there(pixels_CHW) for pixels_CHW in pixels]
            self._loudness = logging.DEBUG
            return levels
        except Exception as error:
            if is_fatal(error):
                raise
            # Aloud until it has worked once: a damaged file is nothing, but a decoder that never works is.
            logger.log(self._loudness, "%d JPEGs are left to the cores: %s", len(files), error)
            if is_out_of_memory(error):
                free_memory(self._cuda.device)
            return [None] * len(files)

    def _decode_waiting(self) -> None:
        taken: list[tuple[bytes, int, Future[Tensor | None]]] = []
        pixels = 0
        with self._lock:
            while self._waiting and (not taken or pixels + self._waiting[0][1] <= MAX_TOGETHER_PIXELS):
                taken.append(self._waiting.popleft())
                pixels += taken[-1][1]
        if not taken:
            return
        found: list[Tensor | None] = [None] * len(taken)
        try:
            found = self.levels([data for data, _, _ in taken])
        except Exception:
            # The pictures are not to blame: the device thread will end the process, and others get the jobs.
            logger.critical("the device decodes no more", exc_info=True)
        for (_, _, future), levels in zip(taken, found, strict=True):
            future.set_result(levels)


def choose_decoder(hosted: HostedModel, runtimes: Mapping[str, Runtime], settings: Settings) -> None:
    """Have a classifier's JPEGs decoded on the device if that is faithful, and quicker than half of the cores.

    Half of the decode threads then use the device, and half their cores.
    """
    cuda, preprocess = hosted.cuda, Preprocess(hosted.card.preprocess)
    if cuda is None or settings.cuda_decode == "off" or TASK not in runtimes or hosted.hooks.preprocess is not None:
        return
    if preprocess.resized_there(*PROBE_WH) is None:
        return
    threads = default_decode_threads(settings.decode_threads)
    decoder = Decoder(cuda, preprocess, most=max(1, threads // 2), max_pixels=settings.max_image_pixels)
    files = probe_files()
    try:
        delta = mean_delta(decoder, preprocess, files)
        there_s = _fastest_s(lambda: decoder.levels(files)) / len(files)
    except Exception as error:
        if is_fatal(error):
            raise
        logger.warning("JPEGs are decoded by the cores: %s", error)
        return
    here_s = _fastest_s(lambda: [_levels_here(preprocess, data) for data in files]) / len(files) / threads
    pays = delta <= MAX_MEAN_DELTA and there_s < 2 * here_s
    logger.info(
        "JPEGs: %.0f a second on the device, %.0f on %d threads, %.2f grey levels apart: %s", 1 / there_s, 1 / here_s,
        threads, delta, "half of the threads use the device" if pays else "the cores decode all",
    )  # fmt: skip
    if pays:
        runtimes[TASK].decoder = decoder


def probe_files() -> list[bytes]:
    """Draw and encode some pictures of a common size."""
    files = []
    for seed in range(PROBES):
        encoded = io.BytesIO()
        synthetic(seed).resize(PROBE_WH).save(encoded, "JPEG", quality=90)
        files.append(encoded.getvalue())
    return files


def mean_delta(decoder: Decoder, preprocess: Preprocess, files: Sequence[bytes]) -> float:
    """Tell by how many grey levels inputs made on the device differ from Pillow's, in the mean; worst of the files.

    Raises:
        RuntimeError: The device decodes none.
    """
    worst = 0.0
    for data, there_CHW in zip(files, decoder.levels(files), strict=True):
        if there_CHW is None:
            raise RuntimeError("the device decodes no JPEG")
        here_CHW = _levels_here(preprocess, data)
        worst = max(worst, float((there_CHW.cpu().float() - here_CHW.float()).abs().mean()))
    return worst


def _levels_here(preprocess: Preprocess, data: bytes) -> Tensor:
    picture = decode(data, max_bytes=len(data), max_pixels=MAX_PIXELS, enough_px=preprocess.enough_px)
    return preprocess.levels(picture.image, picture.full_wh)


def _fastest_s(work: Callable[[], object], runs: int = 3) -> float:
    times = []
    for _ in range(runs):
        started = time.monotonic()
        work()
        times.append(time.monotonic() - started)
    return min(times)
