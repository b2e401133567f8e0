"""What every task's runtime is, and the way of one micro-batch through it.

A runtime is made once per worker and task. ``prepare`` runs in the decode threads; ``forward``, ``results`` and
``steps`` on the device thread alone; what these defer in the finishing threads. Long work overrides ``steps`` instead
of ``forward``.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from visionpipe.errors import OutOfMemoryError
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.requests import Request
from visionpipe.schemas.results import Result
from workers.cuda_copies import Pending, arrived
from workers.device import free_memory, is_fatal, is_out_of_memory
from workers.hosted import Answering, HostedModel
from workers.work import Work


class Written(NamedTuple):
    """A result that its runtime has written as JSON itself: a tiny network answers in less time than objects take."""

    text: str
    """What the result's class reads, with every number finite."""


Outcome = Result | Written | BaseException
"""What one image's work ends in."""

Answer = Outcome | Callable[[], Result]
"""An outcome, or what is left of the work once it no longer needs the device: measuring, encoding, keeping artifacts.
That is done in the finishing threads, and may raise."""


class Runtime(ABC):
    """One task on one hosted model.

    Args:
        hosted: The model.
    """

    is_long: ClassVar[bool] = False
    """Whether images' work is a sequence of ``steps`` rather than one ``forward``, as a rule."""

    has_fixed_shape: ClassVar[bool] = False
    """Whether all inputs have the card's shape where it fixes one, whatever a request asks."""

    def __init__(self, hosted: HostedModel) -> None:
        self.hosted = hosted

    decoder: Callable[[bytes], tuple[Tensor, tuple[int, int]] | None] | None = None
    """Makes ``work.prepared`` of an encoded picture on the device, and tells the picture's size; it takes common files
    only. Set before the worker is ready, where there is one and it pays."""

    def takes_long(self, request: Request) -> bool:
        """Whether the work of every image of a request is a sequence of ``steps``; ``prepare`` may set ``work.is_long``
        for single images of another."""
        return self.is_long

    def enough_px(self) -> int | None:
        """Shorter side, in pixels, at which pictures may be decoded instead of in full; unset: never."""
        return None

    @abstractmethod
    def prepare(self, work: Work) -> None:
        """Set ``work.prepared``, ``work.num_pixels`` and ``work.key`` from ``work.image`` and the request."""

    def forward(self, batch: Sequence[Work]) -> Any:
        """Compute one micro-batch of equal keys on the device."""
        raise NotImplementedError

    def results(self, outputs: Any, batch: Sequence[Work]) -> Sequence[Answer]:
        """Turn what ``forward`` gave into one result, or an exception, per image; defer what takes milliseconds."""
        raise NotImplementedError

    def steps(self, work: Work) -> Generator[Progress, None, Answer]:
        """Do long work, yielding after each device step of at most one micro-batch where it is divisible.

        When ``work.stopping`` becomes true the next step must return the best result so far, marked partial.
        """
        raise NotImplementedError

    def estimate(self, work: Work) -> Progress | None:
        """What prepared long work will cost, as far as warm-up has measured it; told before its first step."""
        return None

    @abstractmethod
    def warm_up(self, num_images: int) -> None:
        """Run one micro-batch of synthetic images."""

    @property
    def answering(self) -> Answering | None:
        """What of the network this task answers with and may be compiled; tasks may share it. Unset: nothing."""
        return None

    def usual_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of most inputs, where the card tells."""
        return self.hosted.input_shape

    def checks(self, compiled: Callable[[Tensor], Any], shape_CHW: tuple[int, ...]) -> Iterator[bool]:
        """Tell for one of the card's parity inputs after the other whether a compiled form answers it as fp32 does.

        Only runtimes with ``answering`` have it. It is run by the device thread, each step between two of its own.

        Args:
            compiled: A form of ``answering``.
            shape_CHW: The only shape of inputs that it takes; parity inputs are cut or continued to it.
        """
        raise NotImplementedError

    def agrees_with(self, compiled: Callable[[Tensor], Any]) -> bool:
        """Whether a compiled form, for inputs of the usual shape, answers the card's parity inputs as fp32 does."""
        shape_CHW = self.usual_shape()
        return shape_CHW is not None and all(self.checks(compiled, shape_CHW))

    @abstractmethod
    def parity(self, precision: str) -> bool:
        """Whether answers in a precision agree with those in fp32 on the card's parity inputs."""


def make_runtimes(hosted: HostedModel) -> dict[str, Runtime]:
    """Make a runtime for every task of the card that this version can do; they live in ``workers.<task>``."""
    made: dict[str, Runtime] = {}
    for task in hosted.card.served_tasks:
        if importlib.util.find_spec(f"workers.{task}") is not None:
            made[task] = importlib.import_module(f"workers.{task}").RUNTIME(hosted)
    return made


def run_batch(runtime: Runtime, batch: Sequence[Work], on_out_of_memory: Callable[[int], None]) -> list[Answer]:
    """Take one micro-batch through forward and results.

    A batch that raises is halved until the guilty image is alone; its neighbours get their results.

    Args:
        runtime: Of the task that all images of the batch share.
        batch: Prepared work of one key.
        on_out_of_memory: Told the size of a batch for which the memory did not suffice.
    """
    return finish_batch(begin_batch(runtime, batch), on_out_of_memory)


@dataclass
class Begun:
    """A micro-batch whose forward pass has been launched."""

    runtime: Runtime
    batch: Sequence[Work]
    started: float
    outputs: Any = None
    failure: BaseException | None = None

    @property
    def is_pending(self) -> bool:
        """Whether the device still computes it, so that others may be launched meanwhile."""
        return isinstance(self.outputs, Pending)


def begin_batch(runtime: Runtime, batch: Sequence[Work]) -> Begun:
    """Launch one micro-batch; on a CPU that computes all of it."""
    begun = Begun(runtime, batch, time.monotonic())
    try:
        begun.outputs = runtime.forward(batch)
    except (Exception, SystemExit) as error:
        if is_fatal(error):
            raise
        begun.failure = error
    return begun


def finish_batch(begun: Begun, on_out_of_memory: Callable[[int], None]) -> list[Answer]:
    """Wait for what was launched, and give its results; see ``run_batch``."""
    runtime, batch, failure = begun.runtime, begun.batch, begun.failure
    if failure is None:
        try:
            return _results(begun)
        except (Exception, SystemExit) as error:
            if is_fatal(error):
                raise
            failure = error
    begun.outputs = begun.failure = None
    # Out here the frames that failed, and with them their tensors, can be let go before anything is tried again.
    if is_out_of_memory(failure):
        traceback.clear_frames(failure.__traceback__)
        free_memory(runtime.hosted.device.torch_device)
        on_out_of_memory(len(batch))
    if len(batch) == 1:
        return [_explain(failure, batch[0])]
    del failure
    middle = len(batch) // 2
    halves = (batch[:middle], batch[middle:])
    return [outcome for half in halves for outcome in run_batch(runtime, half, on_out_of_memory)]


def _results(begun: Begun) -> list[Answer]:
    batch, started = begun.batch, begun.started
    outputs = arrived(begun.outputs)
    ended = time.monotonic()
    results = list(begun.runtime.results(outputs, batch))
    if len(results) != len(batch):
        raise ValueError(f"results() gave {len(results)} outcomes for {len(batch)} images")
    postprocess_ms = (time.monotonic() - ended) * 1000
    for work in batch:
        work.batch = len(batch)
        work.times_ms["batch_wait_ms"] = (started - work.ready_at) * 1000
        work.times_ms["forward_ms"] = (ended - started) * 1000
        work.times_ms["postprocess_ms"] = postprocess_ms
    return results


def _explain(error: BaseException, work: Work) -> BaseException:
    if not is_out_of_memory(error):
        return error
    return OutOfMemoryError(
        f"Expected room for one image of {work.num_pixels} values, but the device has no memory left even with that "
        "image alone. Use a smaller image, or a device with more memory."
    )
