"""Copies to and from a device, on a stand-in for one."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from tests.helpers.fake_cuda import POISON, FakeCuda
from workers.cuda_copies import Copies, Pending

IMAGES = [torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2) + 20 * number for number in range(4)]
ARRAYS = [image.numpy() for image in IMAGES]


def test_on_a_cpu_nothing_is_copied_but_into_the_batch() -> None:
    copies = Copies(None)
    batch = copies.stack(IMAGES)
    assert torch.equal(batch, torch.stack(IMAGES))
    assert copies.move(batch) is batch
    assert copies.fetch(batch) is batch


def test_a_batch_goes_in_one_copy_from_pinned_memory_as_the_levels_it_is() -> None:
    cuda = FakeCuda()
    batch = Copies(cuda).stack(IMAGES)
    assert cuda.log == [("send", (4, 3, 2, 2), torch.uint8)]
    assert torch.equal(batch, torch.stack(IMAGES))
    assert cuda.holds(batch)


@pytest.mark.parametrize("cuda", [None, FakeCuda()], ids=["cpu", "device"])
def test_arrays_make_the_same_batch_as_tensors(cuda: FakeCuda | None) -> None:
    before = np.stack(ARRAYS)
    batch = Copies(cuda).stack(ARRAYS)
    assert batch.is_contiguous()
    assert torch.equal(batch, torch.from_numpy(before))
    batch.zero_()
    assert np.array_equal(np.stack(ARRAYS), before), "the images stay as they are"


def test_arrays_keep_their_places_among_images_that_are_there_already() -> None:
    cuda = FakeCuda()
    batch = Copies(cuda).stack([cuda.put(IMAGES[0].clone()), *ARRAYS[1:3], cuda.put(IMAGES[3].clone())])
    assert torch.equal(batch, torch.stack(IMAGES))
    assert cuda.log == [("send", (2, 3, 2, 2), torch.uint8), "adopt", "adopt"]


def test_images_that_are_there_already_keep_their_places_among_those_that_are_not() -> None:
    cuda = FakeCuda()
    images = [IMAGES[0], cuda.put(IMAGES[1].clone()), IMAGES[2], cuda.put(IMAGES[3].clone())]
    batch = Copies(cuda).stack(images)
    assert torch.equal(batch, torch.stack(IMAGES))
    assert cuda.log == [("send", (2, 3, 2, 2), torch.uint8), "adopt", "adopt"]


def test_where_all_are_there_nothing_is_sent() -> None:
    cuda = FakeCuda()
    assert torch.equal(Copies(cuda).stack([cuda.put(image.clone()) for image in IMAGES]), torch.stack(IMAGES))
    assert cuda.log == ["adopt"] * 4


def test_a_batch_that_is_there_is_not_moved_again() -> None:
    cuda = FakeCuda()
    copies = Copies(cuda)
    there = copies.move(torch.ones(2, 3))
    assert copies.move(there) is there
    assert cuda.log == [("send", (2, 3), torch.float32)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels_last"])
def test_a_result_is_read_only_once_it_has_arrived(layout: torch.memory_format) -> None:
    cuda = FakeCuda()
    values = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=layout)
    pending = Copies(cuda).fetch(values)
    assert isinstance(pending, Pending)
    assert (pending._values == POISON).all()
    assert torch.equal(pending.values(), values)
    assert cuda.log == [("fetch", (1, 2, 3, 4)), "wait"]


def test_the_calls_that_only_a_gpu_can_run_exist_with_these_arguments() -> None:
    graph = inspect.signature(torch.cuda.graph).parameters
    assert {"pool", "stream", "capture_error_mode"} <= set(graph)
    for name in (
        "Stream", "Event", "CUDAGraph", "graph_pool_handle", "current_stream", "stream", "device", "set_device",
        "synchronize", "mem_get_info", "memory_allocated", "memory_reserved", "max_memory_allocated",
        "reset_peak_memory_stats", "set_per_process_memory_fraction", "get_per_process_memory_fraction",
        "get_sync_debug_mode", "set_sync_debug_mode", "get_device_name", "get_device_capability",
    ):  # fmt: skip
        assert callable(getattr(torch.cuda, name)), name
    assert {"wait_stream", "synchronize"} <= set(dir(torch.cuda.Stream))
    assert {"record", "synchronize"} <= set(dir(torch.cuda.Event))
    assert {"replay"} <= set(dir(torch.cuda.CUDAGraph))
