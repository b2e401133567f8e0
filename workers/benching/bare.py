"""A model without a queue: the worker's own stages, each by itself, in a process that does nothing else.

``python -m workers.benching.bare`` reads what to load from the first line of its standard input, then a word a line:
``round`` measures every stage for a moment, ``batches`` every size of micro-batch, ``threads`` every number of decode
threads. Each is answered by one line of JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from visionpipe.errors import VisionPipeError
from visionpipe.fetch import Fetcher
from visionpipe.media import Folders, MediaRoots
from visionpipe.queue import Claim
from visionpipe.schemas.images import ArtifactRef, ImageRef
from visionpipe.schemas.jobs import Lane
from visionpipe.schemas.requests import Request
from visionpipe.settings import Settings, load_settings
from visionpipe.tasks import build_request
from workers.benching.measures import Bare, BatchTime, Question, Stage, ThreadRate
from workers.compiler import Compiler
from workers.cuda_copies import arrived
from workers.cuda_start import prepare_on_cuda
from workers.device import default_decode_threads, keep_freed_memory
from workers.host import HostOptions, load_model
from workers.reading import Reader
from workers.runtime import Answer
from workers.threads import use_cores
from workers.work import HeldJob, Work

ROOT = "bench"
SWEPT = 0.4
"""Sizes of batches and numbers of threads are each measured for this part of a stage's time."""
MIN_RUNS = 3
LOADED_S = 1.0
"""When no further package was loaded for so long, all are."""
LONG_S = 20.0
"""Long work that takes longer for one image is not measured."""


class Nowhere:
    """Keeps no artifact: writing them is the store's affair."""

    def put(self, data: bytes, media_type: str, *, stop: object = None) -> ArtifactRef:
        """Give a reference as the store would."""
        return ArtifactRef(key=f"artifact:{'0' * 64}", media_type=media_type, size_bytes=len(data))

    def try_put(self, data: bytes, media_type: str) -> ArtifactRef | None:
        """The same."""
        return self.put(data, media_type)


class BareModel:
    """A model as a worker hosts it, and its pictures.

    Args:
        question: What to load.
        settings: Those of the worker.
    """

    def __init__(self, question: Question, settings: Settings) -> None:
        keep_freed_memory()
        self._settings = settings
        self._question = question
        options = HostOptions(question.model, redis_url="", device=question.device, precision=question.precision)
        self._hosted, self._runtimes = load_model(options, settings)
        self._runtime = self._runtimes[question.task]
        self._refs = _references(Path(question.folder), question.num_images)
        request: Any = build_request(
            question.task, options=question.options, model=question.model, images=list(self._refs)
        )
        self._request: Request = request
        # Nothing but files is read here.
        store: Any = None
        self._reader = Reader(Fetcher(store, settings, {ROOT: Path(question.folder)}), settings)
        self.threads = default_decode_threads(settings.decode_threads)
        if question.compiled:
            self._compile()
        prepare_on_cuda(self._hosted, self._runtimes, settings, largest=question.max_batch)
        self._works = [self._prepared(index) for index in range(len(self._refs))]

    def round(self) -> Bare | None:
        """Measure every stage; ``None`` for long work that takes too long."""
        if self._works[0].is_long:
            return self._long_round()
        batch = self._batch(self._question.max_batch)
        forward_s, forward_core_s, rest_core_s = self._time_batches(batch, self._question.seconds)
        return Bare(
            decode=self.decode(self.threads, self._question.seconds),
            forward=Stage(
                images_per_s=len(batch) / statistics.median(forward_s), core_ms=1000 * forward_core_s / len(batch)
            ),
            postprocess=_single(rest_core_s / len(batch)),
        )

    def batches(self) -> list[BatchTime]:
        """Time every power of two up to the card's largest micro-batch."""
        if self._works[0].is_long:
            return []
        most = max(self._hosted.card.serving.max_batch, self._question.max_batch)
        found = []
        for size in sorted({*(2**power for power in range(most.bit_length())), most}):
            times_s, _, _ = self._time_batches(self._batch(size), SWEPT * self._question.seconds)
            median_s = statistics.median(times_s)
            found.append(
                BatchTime(batch=size, ms=1000 * median_s, runs=len(times_s), images_per_s=size / median_s)
            )  # fmt: skip
        return found

    def thread_rates(self) -> list[ThreadRate]:
        """Time decoding in one thread, two, four and so on, up to two for each core; the better of two passes."""
        most = 2 * (os.cpu_count() or 1)
        counts = sorted({*(2**power for power in range(most.bit_length())), self.threads})
        best = dict.fromkeys(counts, 0.0)
        for _ in range(2):
            for count in counts:
                best[count] = max(best[count], self.decode(count, SWEPT * self._question.seconds).images_per_s)
        return [ThreadRate(threads=count, images_per_s=rate) for count, rate in best.items()]

    def decode(self, threads: int, seconds: float) -> Stage:
        """Read, decode and preprocess pictures in so many threads for some time."""
        done = Counter[int]()
        began, core_s = time.perf_counter(), time.process_time()

        def go_on(number: int) -> None:
            use_cores(1)
            with Folders() as folders:
                while time.perf_counter() - began < seconds or not done[number]:
                    self._prepared((number + threads * done[number]) % len(self._refs), folders)
                    done[number] += 1

        team = [threading.Thread(target=go_on, args=(number,)) for number in range(threads)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        taken_s, taken_core_s = time.perf_counter() - began, time.process_time() - core_s
        return Stage(images_per_s=done.total() / taken_s, core_ms=1000 * taken_core_s / done.total())

    def _time_batches(self, batch: Sequence[Work], seconds: float) -> tuple[list[float], float, float]:
        """Give the seconds of each forward pass, and the mean seconds of a core that it and what follows took.

        A GPU gets its next batch while it computes one, as from the worker.
        """
        self._finish(batch, self._runtime.results(arrived(self._runtime.forward(batch)), batch))
        is_ahead = self._hosted.cuda is not None
        launched = self._runtime.forward(batch) if is_ahead else None
        times_s: list[float] = []
        forward_core_s = rest_core_s = 0.0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(times_s) < MIN_RUNS:
            started, core_s = time.perf_counter(), time.process_time()
            following = self._runtime.forward(batch)
            outputs = arrived(launched if is_ahead else following)
            launched = following
            times_s.append(time.perf_counter() - started)
            between = time.process_time()
            self._finish(batch, self._runtime.results(outputs, batch))
            forward_core_s += between - core_s
            rest_core_s += time.process_time() - between
        return times_s, forward_core_s / len(times_s), rest_core_s / len(times_s)

    def _finish(self, batch: Sequence[Work], answers: Sequence[Answer]) -> None:
        for answer in answers:
            outcome = answer() if callable(answer) else answer
            if isinstance(outcome, BaseException):
                raise outcome

    def _long_round(self) -> Bare | None:
        work = self._prepared(0)
        steps = self._runtime.steps(work)
        began, core_s = time.perf_counter(), time.process_time()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                answer: Answer = end.value
                break
            if time.perf_counter() - began > LONG_S:
                steps.close()
                return None
        taken_s, between = time.perf_counter() - began, time.process_time()
        self._finish([work], [answer])
        return Bare(
            decode=self.decode(self.threads, self._question.seconds),
            forward=Stage(images_per_s=1 / taken_s, core_ms=1000 * (between - core_s)),
            postprocess=_single(time.process_time() - between),
        )

    def _batch(self, size: int) -> list[Work]:
        """Take work that may share a micro-batch, over and over if need be."""
        keys = Counter(work.key for work in self._works)
        alike = [work for work in self._works if work.key == keys.most_common(1)[0][0]]
        return [alike[index % len(alike)] for index in range(size)]

    def _prepared(self, index: int, folders: Folders | None = None) -> Work:
        claim = Claim("bare", "bare", b"", Lane.BULK, 0, 0.0, None, frozenset())
        ref = self._refs[index]
        job = HeldJob(claim, self._request, open_items=1)
        work = Work(job, index, ref, self._reader.read, Nowhere(), is_long=self._runtime.takes_long(self._request))
        self._reader.fill(work, ref, self._runtime.enough_px(), folders, self._runtime.decoder)
        self._runtime.prepare(work)
        work.image = None
        return work

    def _compile(self) -> None:
        """Swap in the packages that the worker made and uses."""
        told: list[str] = []
        compiler = Compiler(
            self._hosted, self._runtimes, self._settings, between=lambda chore: chore(), told=told.append
        )
        compiler.start()
        while not (told and told[-1].startswith(("compiled", "eager:"))):
            time.sleep(0.05)
        answering, shapes = self._runtime.answering, set[Any]()
        # It loads one shape after the other, and goes on to watch for more.
        while answering is not None and answering.shapes != shapes:
            shapes = answering.shapes
            time.sleep(LOADED_S)
        compiler.close()


def _references(folder: Path, number: int) -> list[ImageRef]:
    roots = MediaRoots({ROOT: folder})
    found = [roots.reference(path) for path in sorted(folder.iterdir())[:number]]
    return [ref for ref in found if ref is not None]


def _single(core_s: float) -> Stage:
    return Stage(images_per_s=1 / core_s if core_s > 0 else 0.0, core_ms=1000 * core_s)


def main() -> None:
    """Answer until standard input ends."""
    # Whatever a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(document: Any) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    try:
        model = BareModel(Question.model_validate_json(sys.stdin.readline()), load_settings())
        asks: dict[str, Callable[[], Any]] = {
            "round": lambda: (found := model.round()) and found.model_dump(),
            "batches": lambda: [one.model_dump() for one in model.batches()],
            "threads": lambda: [one.model_dump() for one in model.thread_rates()],
        }
        answer({"cores": torch.get_num_threads(), "decode_threads": model.threads})
        for line in sys.stdin:
            answer(asks[line.strip()]())
    except VisionPipeError as error:
        answer({"error": error.message})
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
