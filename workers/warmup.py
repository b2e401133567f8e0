"""What a worker finds out by running its model before the first job: precision that pays, batch size, rate."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from models.accounting.device import synchronise
from workers.batching import Batcher
from workers.device import free_memory, is_fatal, is_out_of_memory
from workers.hosted import HostedModel
from workers.outcome import ours
from workers.pace import TARGET_STEP_S
from workers.runtime import Runtime

logger = logging.getLogger("visionpipe.warmup")

TRIES = 3
"""Steps of a larger micro-batch that are timed, unless one before them was quick enough."""
MIN_STEP_S = 0.02
"""Below this, four images in fp32 are too quick to be worth rounding, or to be measured on a busy machine."""
WARM_IMAGES = 4
"""Images in the micro-batches that are timed at warm-up."""
MIN_CUDA_STEP_S = 0.001
"""The same for a full micro-batch on a GPU, where four images say nothing but how long launching takes."""
MIN_GAIN = 0.03
"""On a GPU, a micro-batch twice as large must do at least so many more images a second."""
CUDA_TIMES, CUDA_MAX_BATCH = 8, 256
"""Cards say what suits a CPU: on a GPU so many times as many images are tried, up to so many in all."""
MIN_SPEEDUP = 1.2
"""A reduced precision must be so much faster than fp32 to be worth its rounding."""


def keep_fp32_unless_slower(
    hosted: HostedModel, runtimes: dict[str, Runtime], max_batch: int | None = None, *, is_compiled: bool = False
) -> None:
    """Go back to fp32 where the reduced precision gains nothing, as with tiny networks.

    Args:
        hosted: The model, in the reduced precision.
        runtimes: Those of the model.
        max_batch: Largest micro-batch that was asked for; unset means the card's.
        is_compiled: Whether it will be compiled, which gains most in the reduced precision.
    """
    reduced, on_cuda = hosted.device.precision, hosted.cuda is not None
    num_images, floor_s = (hosted.card.serving.max_batch, MIN_CUDA_STEP_S) if on_cuda else (WARM_IMAGES, MIN_STEP_S)
    num_images = min(num_images, max_batch or num_images)
    while True:
        reduced_s = _sum_s(hosted, runtimes, num_images)
        hosted.set_precision("fp32")
        full_s = _sum_s(hosted, runtimes, num_images)
        if num_images == 1 or max(reduced_s, full_s) < math.inf:
            break
        hosted.set_precision(reduced)
        num_images //= 2
    if full_s > floor_s and (is_compiled or reduced_s * MIN_SPEEDUP < full_s):
        hosted.set_precision(reduced)


def _sum_s(hosted: HostedModel, runtimes: dict[str, Runtime], num_images: int) -> float:
    """Time one micro-batch of every task; infinite where the memory does not suffice."""
    return _if_it_fits(hosted, lambda: sum(_time_s(runtime, num_images) for runtime in _timed(runtimes)))


def _if_it_fits(hosted: HostedModel, measure: Callable[[], float]) -> float:
    """Measure, or give infinity where the memory does not suffice."""
    try:
        return measure()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
    free_memory(hosted.device.torch_device)
    return math.inf


def _timed(runtimes: dict[str, Runtime]) -> list[Runtime]:
    """The runtimes whose micro-batches say how fast the model is; long work chooses its steps by itself."""
    return [runtime for runtime in runtimes.values() if not runtime.is_long] or list(runtimes.values())


def _time_s(runtime: Runtime, num_images: int) -> float:
    """Time one micro-batch: the fastest of several, since other workers may be starting beside this one."""
    times: list[float] = []
    while len(times) < 3 or (len(times) < 10 and sum(times) < 0.5):
        times.append(_once_s(runtime, num_images))
    return min(times)


def _once_s(runtime: Runtime, num_images: int) -> float:
    started = time.monotonic()
    runtime.warm_up(num_images)
    synchronise(runtime.hosted.device.torch_device)
    return time.monotonic() - started


def warm_up(hosted: HostedModel, runtimes: dict[str, Runtime], max_batch: int | None) -> int:
    """Run every runtime several times, so that the first job pays for nothing; gives the largest micro-batch.

    Unless told otherwise that is the largest, up to the card's, whose step takes no longer than ``TARGET_STEP_S`` and
    for which the memory suffices; on a GPU a larger one, as long as it does more images a second.
    A task that the card does not name, but others imply, is left out where the network cannot do it.
    """
    for task, runtime in list(runtimes.items()):
        _warm_or_leave_out(hosted, runtimes, task, runtime)
    if max_batch is not None:
        return max_batch
    on_cuda, most = hosted.cuda is not None, hosted.card.serving.max_batch
    if on_cuda:
        most = max(most, min(CUDA_TIMES * most, CUDA_MAX_BATCH))
    chosen = min(WARM_IMAGES, most)
    each_s = _step_s(hosted, runtimes, chosen) / chosen if on_cuda else 0.0
    while chosen < most:
        larger = min(2 * chosen, most)
        step_s = _step_s(hosted, runtimes, larger)
        if step_s > TARGET_STEP_S or (on_cuda and step_s / larger > (1 - MIN_GAIN) * each_s):
            break
        chosen, each_s = larger, step_s / larger
    return chosen


def _step_s(hosted: HostedModel, runtimes: dict[str, Runtime], num_images: int) -> float:
    """Time one micro-batch of the slowest task; infinite where the memory does not suffice."""

    def slowest() -> float:
        return max(_time_s(runtime, num_images) for runtime in _timed(runtimes))

    # A model for which not even the smallest fits cannot be served.
    return slowest() if num_images <= WARM_IMAGES else _if_it_fits(hosted, slowest)


def _warm_or_leave_out(hosted: HostedModel, runtimes: dict[str, Runtime], task: str, runtime: Runtime) -> None:
    try:
        runtime.warm_up(1)
    except Exception as error:
        if is_fatal(error):
            raise
        if task in hosted.card.tasks:
            raise ours(error) from None
        logger.warning("%s does not serve %s: %s", hosted.card.name, task, error)
        del runtimes[task]


def larger_batches(runtime: Runtime, present: int, most: int) -> Iterator[int]:
    """Try whether larger micro-batches suit a network that has become faster: each twice the one before.

    Args:
        runtime: Of the task.
        present: Largest micro-batch so far.
        most: Largest that may be tried.

    Yields:
        After each step of the device, the largest micro-batch that is known to suit.
    """
    while (larger := min(2 * present, most)) > present:
        # More than once, since others may use the processor meanwhile.
        for _ in range(TRIES):
            if _if_it_fits(runtime.hosted, lambda: _once_s(runtime, larger)) <= TARGET_STEP_S:
                present = larger
                break
            yield present
        if present != larger:
            return
        yield present


def enlarge(hosted: HostedModel, batcher: Batcher, tasks: Sequence[str], shape_CHW: tuple[int, ...]) -> Iterator[int]:
    """Let micro-batches be as large as suits a network that compiled code answers now; see ``larger_batches``.

    Nothing is done where other inputs of the same task are still computed as slowly as before.

    Args:
        hosted: The model.
        batcher: What takes the micro-batches.
        tasks: Those that compiled code answers.
        shape_CHW: The shape of inputs for which it does.
    """
    if shape_CHW != hosted.input_shape:
        return
    for task in tasks:
        runtime = batcher.runtimes[task]
        if runtime.has_fixed_shape and not runtime.is_long and runtime.answering is hosted.answering:
            most = min(hosted.card.serving.max_batch, batcher.limits.ceiling(task))
            for max_batch in larger_batches(runtime, batcher.limits.of(task), most):
                batcher.limits.enlarge(task, max_batch)
                yield max_batch


def expected_rate(runtimes: dict[str, Runtime], max_batch: int) -> float:
    """Guess images a second of the slowest task from one full micro-batch each."""
    slowest_s = max(_time_s(runtime, max_batch) for runtime in _timed(runtimes))
    return max_batch / slowest_s if slowest_s > 0 else 0.0
