"""Devices, precisions, memory, cores."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from visionpipe.errors import SettingsError
from workers import device
from workers.threads import use_cores

CPU = torch.device("cpu")


def test_a_reduced_precision_must_be_native_and_faithful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: {"amx_bf16"})
    assert device.pick_precision("auto", CPU, lambda name: name == "bf16") == "bf16"
    assert device.pick_precision("auto", CPU, lambda _: False) == "fp32"
    monkeypatch.setattr(device, "cpu_flags", lambda: {"avx2"})
    assert device.pick_precision("auto", CPU, lambda _: True) == "fp32"


def test_a_precision_that_was_asked_for_is_kept_though_unfaithful(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="visionpipe"):
        assert device.pick_precision("bf16", CPU, lambda _: False) == "bf16"
    assert "differ from fp32" in caplog.text
    assert device.pick_precision("fp32", CPU, lambda _: pytest.fail("fp32 needs no check")) == "fp32"


@pytest.mark.parametrize("wanted", ["fp16", "int8"])
def test_a_precision_that_a_processor_cannot_compute_in_is_refused(wanted: str) -> None:
    with pytest.raises(SettingsError, match="Expected"):
        device.pick_precision(wanted, CPU, lambda _: True)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=["host", "cuda", "torch_cpu", "cublas", "driver", "shapes", "a_hook's_words"],
)
def test_want_of_memory_is_told_from_other_errors(error: Exception, verdict: bool) -> None:
    assert device.is_out_of_memory(error) is verdict


def test_only_a_broken_device_is_fatal() -> None:
    assert device.is_fatal(torch.AcceleratorError("CUDA error: device-side assert triggered"))
    assert not device.is_fatal(torch.AcceleratorError("CUDA error: out of memory"))
    assert not device.is_fatal(RuntimeError("CUDA error"))


def test_real_want_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert device.is_out_of_memory(caught.value)


FAULTS = """
import resource, threading, torch
from workers.device import keep_freed_memory
keep_freed_memory()
def work():
    for round in range(22):
        if round == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(40 * 2**20, dtype=torch.uint8).fill_(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_large_block_freed_by_the_device_thread_is_used_again_without_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    blocks, pages_each = 20, 40 * 2**20 // 4096
    assert int(done.stdout) < blocks * pages_each / 3


def test_decode_threads_take_one_core_and_the_device_thread_keeps_its_own() -> None:
    cores = torch.get_num_threads()
    seen: dict[str, int] = {}

    def note(name: str, number: int) -> None:
        use_cores(number)
        torch.ones(300_000).mul_(2)
        seen[name] = torch.get_num_threads()

    for name, number in (("device", 2), ("decode", 1)):
        thread = threading.Thread(target=note, args=(name, number))
        thread.start()
        thread.join()
    assert seen == {"device": 2, "decode": 1}
    assert torch.get_num_threads() == cores
