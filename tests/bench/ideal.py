"""The yardstick: the best pipeline for a folder that can be written by hand in one process, with no queue in it.

Threads read, decode and preprocess; one computes micro-batches in a precision of its own; one writes answers as JSON
lines, others finish what takes longer. Everything overlaps, nothing is copied that need not be, and no job is accounted
for.
"""

from __future__ import annotations

import json
import os
import queue
import statistics
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.catalog import Catalog
from models.compiling import Packages, load_compiled
from models.images import Decoded, decode
from models.loading import load
from models.preprocess import Preprocess
from workers.device import cpu_flags, keep_freed_memory
from workers.hosted import Answering, HostedModel
from workers.threads import use_cores
from workers.version import version

TOP_K = 5
AHEAD = 4
"""Micro-batches that are decoded ahead of the device."""
TRIALS = 3
"""Rounds in which each way of running is tried."""
LIMIT = 2**28


class How(NamedTuple):
    """What is found by trying."""

    readers: int
    """Threads that read, decode and preprocess."""
    finishers: int
    """Threads that finish answers; with none the writer does."""
    full: float
    """Share of a micro-batch that is waited for."""
    spare: bool
    """Whether all readers but the first read only while the device waits for pictures."""

    def __str__(self) -> str:
        return f"{self.readers}+{self.finishers} {self.full:g}{' spare' if self.spare else ''}"


class Ideal(ABC):
    """A model and the pipeline around it.

    Args:
        model: Name of the model.
        models: The user's folder of models.
        precision: In which it computes.
        packages: Folder of the worker's compiled networks; those of this model are used.
    """

    finishers: Sequence[int] = (0,)
    """How many threads may finish answers."""

    def __init__(self, model: str, models: Path | None, precision: str, *, packages: Path) -> None:
        keep_freed_memory()
        self.entry = Catalog(models).find(model)
        self.hosted = HostedModel(self.entry, device="cpu")
        self.hosted.set_precision(precision)
        self.answering = self._answering()
        # The main thread has a team for OpenMP already, whose members spin between batches on the readers' cores.
        self._device = ThreadPoolExecutor(1, initializer=use_cores, initargs=(torch.get_num_threads(),))
        kept = Packages(
            packages, self.entry.digest, self.answering.part, precision, frozenset(cpu_flags()), version=version()
        )
        for shape in kept.shapes():
            self.answering.use(load_compiled(kept.path(shape)), shape)

    def _answering(self) -> Answering:
        return self.hosted.answering

    @abstractmethod
    def prepare(self, path: Path) -> Any:
        """Read, decode and preprocess one picture."""

    @abstractmethod
    def compute(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Compute one micro-batch; gives what is left to do of each picture."""

    @abstractmethod
    def finish(self, left: Any, index: int, out: Path) -> dict[str, Any]:
        """Give one picture's answer, and write what goes into files of its own."""

    def best(self, paths: Sequence[Path], out: Path, *, batch: int, among: Sequence[int] = (1, 2, 3)) -> How:
        """The way of running that suits best, by the median of interleaved rounds."""
        ways = product(among, self.finishers, ((0.5, False), (1.0, False), (1.0, True)))
        rates: dict[How, list[float]] = {
            How(readers, finishers, *way): [] for readers, finishers, way in ways if readers > 1 or way != (1.0, True)
        }
        self.rate(paths, out, batch=batch, how=next(iter(rates)))
        for _ in range(TRIALS):
            for how, found in rates.items():
                found.append(self.rate(paths, out, batch=batch, how=how))
        return max(rates, key=lambda how: statistics.median(rates[how]))

    def rate(self, paths: Sequence[Path], out: Path, *, batch: int, how: How) -> float:
        """Images a second."""
        return self._device.submit(self._run, paths, out, batch, how).result()

    def _run(self, paths: Sequence[Path], out: Path, batch: int, how: How) -> float:
        started = time.perf_counter()
        computed: queue.SimpleQueue[Any] = queue.SimpleQueue()
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        crew = [threading.Thread(target=self._finish, args=(computed, finished, out)) for _ in range(how.finishers)]
        writer = threading.Thread(target=self._write, args=(finished, out))
        for thread in (*crew, writer):
            thread.start()
        for indices, prepared in self._batches(paths, batch, how):
            with torch.inference_mode():
                answers = self.compute(prepared)
            for index, left in zip(indices, answers, strict=True):
                (computed if crew else finished).put((index, left))
        for _ in crew:
            computed.put(None)
        for thread in crew:
            thread.join()
        finished.put(None)
        writer.join()
        return len(paths) / (time.perf_counter() - started)

    def _batches(self, paths: Sequence[Path], batch: int, how: How) -> Iterator[tuple[list[int], list[Any]]]:
        ready: queue.Queue[tuple[int, Any]] = queue.Queue(AHEAD * batch)
        order = iter(range(len(paths)))
        lock = threading.Lock()
        waits = threading.Event()

        def prepare(is_spare: bool) -> None:
            use_cores(1)
            while True:
                if is_spare:
                    waits.wait()
                with lock:
                    index = next(order, None)
                if index is None:
                    return
                ready.put((index, self.prepare(paths[index])))

        for number in range(how.readers):
            threading.Thread(target=prepare, args=(how.spare and number > 0,), daemon=True).start()
        left = len(paths)
        while left:
            waits.set()
            taken = [ready.get()]
            while len(taken) < min(batch, left):
                try:
                    taken.append(ready.get_nowait())
                except queue.Empty:
                    # Tiny networks take what is there; for others a fuller batch is worth a moment.
                    if len(taken) >= how.full * batch:
                        break
                    taken.append(ready.get())
            left -= len(taken)
            # At the end the spare ones must not wait for ever.
            if left:
                waits.clear()
            yield [index for index, _ in taken], [prepared for _, prepared in taken]

    def _finish(self, computed: queue.SimpleQueue[Any], finished: queue.SimpleQueue[Any], out: Path) -> None:
        use_cores(1)
        while (told := computed.get()) is not None:
            index, left = told
            finished.put((index, partial(dict, self.finish(left, index, out))))

    def _write(self, finished: queue.SimpleQueue[Any], out: Path) -> None:
        use_cores(1)
        with out.open("w") as lines:
            while (told := finished.get()) is not None:
                index, left = told
                answer = left() if isinstance(left, partial) else self.finish(left, index, out)
                lines.write(json.dumps({"index": index, **answer}) + "\n")


def read(path: Path, enough_px: int | None = None) -> Decoded:
    """Read and decode one picture as the worker does."""
    # Half as long as a Path takes for a tiny file.
    fd = os.open(path, os.O_RDONLY)
    try:
        data = os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    return decode(data, max_bytes=LIMIT, max_pixels=LIMIT, enough_px=enough_px)


class Classify(Ideal):
    """The most probable classes of pictures."""

    def __init__(self, model: str, models: Path | None, precision: str, *, packages: Path) -> None:
        super().__init__(model, models, precision, packages=packages)
        self._preprocess = Preprocess(self.hosted.card.preprocess)
        self._labels = self.hosted.card.labels

    def prepare(self, path: Path) -> NDArray[np.uint8]:
        """Levels, uint8 (C, H, W)."""
        picture = read(path, self._preprocess.enough_px)
        return self._preprocess.levels_array(picture.image, picture.full_wh)

    def compute(self, batch: Sequence[NDArray[np.uint8]]) -> Sequence[Any]:
        """Scores and class indices of the best classes."""
        inputs_NCHW = self._preprocess.normalise(self.hosted.copies.stack(batch))
        logits_NK = self.hosted.classifier()(self.hosted.to_input(inputs_NCHW))
        scores_NK, classes_NK = logits_NK.float().softmax(dim=1).topk(min(TOP_K, logits_NK.shape[1]), dim=1)
        return list(zip(scores_NK.tolist(), classes_NK.tolist(), strict=True))

    def finish(self, left: Any, index: int, out: Path) -> dict[str, Any]:
        """Name the classes."""
        scores, classes = left
        named = [self._labels[class_id] if self._labels else class_id for class_id in classes]
        return {"classes": named, "scores": scores}


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
