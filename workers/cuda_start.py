"""What a worker on a CUDA device does once, between its warm-up and its first job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch

from visionpipe.settings import Settings
from workers.batching import Batcher
from workers.cuda_decode import choose_decoder
from workers.cuda_graphs import answer_in_buckets
from workers.hosted import HostedModel
from workers.runtime import Runtime


def prepare_on_cuda(
    hosted: HostedModel, runtimes: Mapping[str, Runtime], settings: Settings, *, largest: int
) -> str | None:
    """Run and capture batch sizes, and choose where JPEGs are decoded, in the thread that will compute.

    Args:
        hosted: The model.
        runtimes: Those of the model, by task.
        settings: Whether to decode on the device.
        largest: Most images in a micro-batch.

    Returns:
        What became of the network; ``None`` on a CPU, where nothing is done.
    """
    cuda = hosted.cuda
    if cuda is None:
        return None
    if cuda.device.type == "cuda":
        torch.cuda.set_device(cuda.device)
    told = answer_in_buckets(runtimes, cuda, largest=largest)
    choose_decoder(hosted, runtimes, settings)
    return told


def begin_on_cuda(
    hosted: HostedModel,
    runtimes: Mapping[str, Runtime],
    batcher: Batcher,
    *,
    settings: Settings,
    told: Callable[[str], None],
) -> None:
    """Have the device thread do what ``prepare_on_cuda`` does, and wait: a worker is not ready before.

    Args:
        hosted: The model.
        runtimes: Those of the model, by task.
        batcher: Whose thread it is.
        settings: How long a step may take, and whether to decode on the device.
        told: Called with what became of the network.
    """
    if hosted.cuda is None:
        return
    done = threading.Event()

    def begin() -> None:
        try:
            told(prepare_on_cuda(hosted, runtimes, settings, largest=batcher.limits.max_batch) or "eager")
        finally:
            done.set()

    batcher.between(begin)
    # A device thread that dies or hangs ends the process by itself.
    done.wait(settings.hang_s)
