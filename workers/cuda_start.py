"""What a worker on a CUDA device does once, between its warm-up and its first job."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

import torch

from visionpipe.settings import Settings
from workers.batching import Batcher
from workers.cuda_decode import choose_decoder
from workers.cuda_graphs import answer_in_buckets
from workers.hosted import HostedModel
from workers.runtime import Runtime

logger = logging.getLogger("visionpipe.cuda")


def begin_on_cuda(
    hosted: HostedModel,
    runtimes: Mapping[str, Runtime],
    batcher: Batcher,
    *,
    settings: Settings,
    told: Callable[[str], None],
) -> None:
    """Have the device thread run and capture its batch sizes, and choose where JPEGs are decoded; waits for both.

    A worker is not ready before. Does nothing on a CPU.

    Args:
        hosted: The model.
        runtimes: Those of the model, by task.
        batcher: Whose thread captures: graphs belong to the thread that does.
        settings: How long a step may take, and whether to decode on the device.
        told: Called with what became of the network.
    """
    cuda = hosted.cuda
    if cuda is None:
        return
    done = threading.Event()

    def begin() -> None:
        try:
            if cuda.device.type == "cuda":
                torch.cuda.set_device(cuda.device)
            told(answer_in_buckets(runtimes, cuda, largest=batcher.max_batch))
        finally:
            done.set()

    batcher.between(begin)
    # A device thread that dies or hangs ends the process by itself.
    done.wait(settings.hang_s)
    choose_decoder(hosted, runtimes, settings)
