"""What is done before the first job, on a stand-in for a device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from models.catalog import Catalog
from tests.helpers.fake_cuda import FakeCuda
from visionpipe.settings import Settings
from workers.classification import ClassificationRuntime
from workers.cuda_copies import Copies
from workers.cuda_start import begin_on_cuda, prepare_on_cuda
from workers.hosted import HostedModel


class Thread:
    """Does what it is given in a thread, as a batcher does."""

    limits = SimpleNamespace(max_batch=16)

    def between(self, chore: Callable[[], None]) -> None:
        threading.Thread(target=chore, name="device").start()


def test_the_device_thread_captures_before_the_worker_is_ready() -> None:
    hosted = HostedModel(Catalog().find("lenet-digits"), device="cpu")
    cuda = hosted.cuda = FakeCuda()
    hosted.copies = Copies(cuda)
    runtime, told, thread = ClassificationRuntime(hosted), [], Thread()
    who: list[str] = []
    capture = cuda.capture
    cuda.capture = lambda *a, **k: who.append(threading.current_thread().name) or capture(*a, **k)  # type: ignore[method-assign, func-returns-value]
    batcher: Any = thread
    begin_on_cuda(hosted, {"classification": runtime}, batcher, settings=Settings(), told=told.append)
    assert told == ["graphs of 1, 2, 4, 8"]
    assert who == ["device"] * 4
    assert hosted.answering.shapes == {hosted.input_shape}
    runtime.warm_up(5)
    assert ("replay", 8) in cuda.log


def test_on_a_cpu_nothing_is_done() -> None:
    hosted = HostedModel(Catalog().find("lenet-digits"), device="cpu")
    runtimes = {"classification": ClassificationRuntime(hosted)}
    assert prepare_on_cuda(hosted, runtimes, Settings(), largest=4) is None
    batcher: Any = None
    begin_on_cuda(hosted, runtimes, batcher, settings=Settings(), told=pytest.fail)
    assert hosted.answering.shapes == set()
