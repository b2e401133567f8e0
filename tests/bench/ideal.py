"""The yardstick: the best pipeline for a folder that can be written by hand in one process, with no queue in it.

Threads read, decode and preprocess; the main thread computes micro-batches in a precision of its own; one thread
writes answers as JSON lines. Everything overlaps, nothing is copied that need not be, and no job is accounted for.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.catalog import Catalog
from models.compiling import load_compiled
from models.images import decode
from models.loading import load
from models.preprocess import Preprocess
from workers.device import keep_freed_memory
from workers.hosted import HostedModel
from workers.threads import use_cores

TOP_K = 5
AHEAD = 4
"""Micro-batches that are decoded ahead of the device."""
LIMIT = 2**28


class Ideal:
    """A classification model and the pipeline around it.

    Args:
        model: Name of the model.
        models: The user's folder of models.
        precision: In which it computes.
        packages: Folder of the worker's compiled networks; this one is used if it is there.
    """

    def __init__(self, model: str, models: Path | None, precision: str, *, packages: Path) -> None:
        keep_freed_memory()
        entry = Catalog(models).find(model)
        self._hosted = HostedModel(entry, device="cpu")
        self._hosted.set_precision(precision)
        self._preprocess = Preprocess(self._hosted.card.preprocess)
        self._labels = self._hosted.card.labels
        for package in packages.glob(f"{entry.digest}-{precision}-*"):
            size_hw = self._hosted.card.preprocess.input_size_hw
            assert size_hw is not None
            shape = (len(self._hosted.card.preprocess.mode), *size_hw)
            self._hosted.answering.use(load_compiled(package), shape)

    def best_threads(self, paths: Sequence[Path], out: Path, *, batch: int, among: Sequence[int] = (1, 2, 3)) -> int:
        """The number of decode threads that suits best."""
        self.rate(paths, out, batch=batch, threads=1)
        return max(among, key=lambda number: self.rate(paths, out, batch=batch, threads=number))

    def rate(self, paths: Sequence[Path], out: Path, *, batch: int, threads: int) -> float:
        """Images a second."""
        started = time.perf_counter()
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        writer = threading.Thread(target=self._write, args=(answers, out))
        writer.start()
        for indices, inputs_NCHW in self._batches(paths, batch, threads):
            answers.put((indices, *self._forward(inputs_NCHW)))
        answers.put(None)
        writer.join()
        return len(paths) / (time.perf_counter() - started)

    @torch.inference_mode()
    def _forward(self, inputs_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        inputs_NCHW = self._preprocess.normalise(inputs_NCHW)
        logits_NK = self._hosted.classifier()(self._hosted.to_input(inputs_NCHW))
        return logits_NK.float().softmax(dim=1).topk(min(TOP_K, logits_NK.shape[1]), dim=1)

    def _batches(self, paths: Sequence[Path], batch: int, threads: int) -> Iterator[tuple[list[int], Tensor]]:
        ready: queue.Queue[tuple[int, Tensor]] = queue.Queue(AHEAD * batch)
        order = iter(range(len(paths)))
        lock = threading.Lock()

        def prepare() -> None:
            use_cores(1)
            while True:
                with lock:
                    index = next(order, None)
                if index is None:
                    return
                enough_px = self._preprocess.enough_px
                picture = decode(paths[index].read_bytes(), max_bytes=LIMIT, max_pixels=LIMIT, enough_px=enough_px)
                ready.put((index, self._preprocess.levels(picture.image, picture.full_wh)))

        for _ in range(threads):
            threading.Thread(target=prepare, daemon=True).start()
        left = len(paths)
        while left:
            taken = [ready.get()]
            while len(taken) < min(batch, left):
                try:
                    taken.append(ready.get_nowait())
                except queue.Empty:
                    # Tiny networks take whatever is there; for others a fuller batch is worth a moment.
                    if len(taken) * 2 >= batch:
                        break
                    taken.append(ready.get())
            left -= len(taken)
            yield [index for index, _ in taken], torch.stack([prepared for _, prepared in taken])

    def _write(self, answers: queue.SimpleQueue[Any], out: Path) -> None:
        with out.open("w") as lines:
            while (told := answers.get()) is not None:
                indices, scores_NK, classes_NK = told
                for index, scores, classes in zip(indices, scores_NK.tolist(), classes_NK.tolist(), strict=True):
                    named = [self._labels[class_id] if self._labels else class_id for class_id in classes]
                    lines.write(json.dumps({"index": index, "classes": named, "scores": scores}) + "\n")


class PlainLoop:
    """The loop that everybody writes first: decode, preprocess and compute in turn, fp32, one picture at a time.

    Args:
        model: Name of the model.
        models: The user's folder of models.
    """

    def __init__(self, model: str, models: Path) -> None:
        entry = Catalog(models).find(model)
        self._network = load(entry)
        self._preprocess = Preprocess(entry.card.preprocess)

    @torch.inference_mode()
    def rate(self, paths: Sequence[Path]) -> float:
        """Images a second."""
        started = time.perf_counter()
        for path in paths:
            picture = decode(path.read_bytes(), max_bytes=LIMIT, max_pixels=LIMIT).image
            self._network(self._preprocess(picture)[None]).softmax(1).topk(TOP_K)
        return len(paths) / (time.perf_counter() - started)
