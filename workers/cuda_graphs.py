"""A network on CUDA computing a few batch sizes only: small ones as graphs, which cost one launch instead of hundreds.

cuDNN searches for its fastest kernels once for each size, so sizes are few, and each is run before the worker serves.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workers.cuda import Cuda
from workers.device import is_out_of_memory
from workers.hosted import Answering
from workers.runtime import Runtime

logger = logging.getLogger("visionpipe.cuda")

GRAPH_SIZES = (8, 4, 2, 1)
"""Batch sizes that are captured; the largest first, whose memory the smaller ones then share."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""How far a replay may be from what is computed anew, of the largest value: kernels may be others in other sizes."""

Network = Callable[[Tensor], Tensor]


class Buckets:
    """A network that answers any batch in one of a few sizes: powers of two, and the largest micro-batch.

    Args:
        cuda: The device.
        network: In eval mode, on the device; gives one row per image.
        shape_CHW: Of an input.
        dtype: Of an input.
        largest: Most images in a batch; larger ones are computed as they are.
    """

    def __init__(
        self, cuda: Cuda, network: Network, shape_CHW: tuple[int, ...], dtype: torch.dtype, *, largest: int
    ) -> None:
        self._cuda = cuda
        self._network = network
        self._shape = shape_CHW
        self._dtype = dtype
        self.sizes = sorted({2**power for power in range(largest.bit_length())} | {largest})
        self._graphs: dict[int, tuple[Tensor, Callable[[], None], Tensor]] = {}
        self._held: list[Tensor] = []

    @property
    def graphs(self) -> list[int]:
        """The batch sizes that are captured."""
        return sorted(self._graphs)

    def prepare(self) -> None:
        """Run every size once and capture the small ones; by the device thread.

        Raises:
            RuntimeError: The network does not give one row per image, or an image's row depends on its batch.
        """
        for size in reversed(self.sizes):
            output: object = self._compute(self._random(size))
            if not isinstance(output, Tensor) or len(output) != size:
                raise RuntimeError(f"expected a row for each of {size} images")
        for size in GRAPH_SIZES:
            if size in self.sizes and not self._capture(size):
                return

    @torch.no_grad()
    def __call__(self, inputs_NCHW: Tensor) -> Tensor:
        """Give the network's output for a batch, in memory of its own."""
        number = len(inputs_NCHW)
        size = next((size for size in self.sizes if size >= number), None)
        if size is None or inputs_NCHW.dtype != self._dtype:
            return self._network(inputs_NCHW)
        if size in self._graphs:
            input_NCHW, replay, output = self._graphs[size]
            # The rows after these are those of an earlier batch, whose answers nobody reads.
            input_NCHW[:number].copy_(inputs_NCHW)
            replay()
            return output[:number].clone()
        if size == number:
            return self._compute(inputs_NCHW)
        padded_NCHW = self._empty(size)
        padded_NCHW[:number].copy_(inputs_NCHW)
        padded_NCHW[number:].zero_()
        return self._compute(padded_NCHW)[:number]

    def _capture(self, size: int) -> bool:
        """Capture one size; says whether it, and so a smaller one, can be."""
        # Made outside inference mode, or they could not be written to outside it.
        with torch.inference_mode(False), torch.no_grad():
            input_NCHW = self._random(size)
            try:
                self._cuda.check_capturable(lambda: self._compute(input_NCHW))
                replay, output = self._cuda.capture(lambda: self._compute(input_NCHW))
                # Anchors, for one, that a network keeps for its last size: the graph reads them where they lie.
                self._held += _kept_by(self._network)
                self._graphs[size] = (input_NCHW, replay, output)
                self._check(size)
            except Exception as error:  # noqa: BLE001 - whatever it is, the network is served without graphs
                self._graphs.pop(size, None)
                logger.warning("batches of %d are served without a graph: %s", size, error)
                # Unless the device itself is broken, which this raises.
                self._cuda.check()
                return False
        return True

    def _check(self, size: int) -> None:
        """Hold replays against what is computed anew, for other inputs than the captured ones, padded and not."""
        for number in {size, max(1, size - 1)}:
            inputs_NCHW = self._random(number)
            replayed, computed = self(inputs_NCHW).float(), self._compute(inputs_NCHW).float()
            far = (replayed - computed).abs().max()
            # Written so that a NaN is too far.
            if not bool(far <= TOLERANCE[self._dtype] * computed.abs().max()):
                raise RuntimeError(f"its replay differs by {float(far):.3g}")

    def _compute(self, inputs_NCHW: Tensor) -> Tensor:
        with _searching():
            return self._network(inputs_NCHW)

    def _empty(self, size: int) -> Tensor:
        return torch.empty(
            (size, *self._shape), dtype=self._dtype, device=self._cuda.device, memory_format=torch.channels_last
        )

    def _random(self, size: int) -> Tensor:
        return self._empty(size).normal_()


@contextmanager
def _searching() -> Iterator[None]:
    """Let cuDNN search for its fastest kernels; not for other inputs, whose sizes are as many as pictures."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _kept_by(network: Network) -> list[Tensor]:
    """The tensors that modules keep besides their parameters and buffers, by themselves or in lists."""
    modules = network.modules() if isinstance(network, nn.Module) else ()
    kept: list[Tensor] = []
    for module in modules:
        for value in vars(module).values():
            some = value if isinstance(value, list | tuple) else (value,)
            kept += [one for one in some if isinstance(one, Tensor)]
    return kept


def answer_in_buckets(runtimes: Mapping[str, Runtime], cuda: Cuda, *, largest: int) -> str:
    """Have networks answer in a few batch sizes, where their answers stay those of fp32; by the device thread.

    Args:
        runtimes: Those of the model, by task; several may share a network, or a part of one.
        cuda: The device.
        largest: Most images in a micro-batch.

    Returns:
        What to say of it: ``graphs of 1, 2, 4, 8`` images, or why all stays ``eager``.
    """
    parts: dict[Answering, list[Runtime]] = {}
    for runtime in runtimes.values():
        if runtime.answering is not None and runtime.usual_shape() is not None:
            parts.setdefault(runtime.answering, []).append(runtime)
    sizes: set[int] = set()
    for answering, sharing in parts.items():
        sizes |= set(_use_buckets(answering, sharing, cuda, largest))
    if not parts:
        return "eager: inputs have no fixed size"
    return f"graphs of {', '.join(map(str, sorted(sizes)))}" if sizes else "eager: no graph could be captured"


@torch.inference_mode()
def _use_buckets(answering: Answering, runtimes: Sequence[Runtime], cuda: Cuda, largest: int) -> list[int]:
    """Replace one network; gives the batch sizes that are captured."""
    shape_CHW = runtimes[0].usual_shape()
    assert shape_CHW is not None
    buckets = Buckets(cuda, answering.eager, shape_CHW, answering.dtype, largest=largest)
    try:
        buckets.prepare()
        faithful = all(runtime.agrees_with(buckets) for runtime in runtimes)
    except Exception as error:  # noqa: BLE001 - whatever it is, the network is served as it is
        if not is_out_of_memory(error):
            # Unless the device itself is broken, which this raises.
            cuda.check()
        logger.warning("the %s is served in batches of any size: %s", answering.part, error)
        return []
    if not faithful:
        logger.warning("the %s answers otherwise in padded batches, which are not used", answering.part)
        return []
    answering.use(buckets, shape_CHW)
    return buckets.graphs
