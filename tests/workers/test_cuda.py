"""What is settled for a device, as far as that can be told without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workers.cuda import GIB, LEAST_SHARE, memory_share, settle
from workers.device import native_precisions, pick_precision

GPU = torch.device("cuda:0")


@pytest.mark.parametrize(
    ("memory", "workers", "free_gib", "share"),
    [
        (None, 1, 80, 1.0),
        (None, 1, 60, 0.75),
        (None, 4, 80, 0.25 - 0.5 / 80),
        (None, 4, 10, 0.125),
        (0.3, 4, 10, 0.3),
        (1, 1, 80, 1.0),
        (20, 1, 80, 0.25),
        (500, 1, 80, 1.0),
        (None, 1, 0, LEAST_SHARE),
    ],
)
def test_a_worker_takes_what_it_was_told_or_its_part_of_the_memory(
    memory: float | None, workers: int, free_gib: int, share: float
) -> None:
    found = memory_share(memory, workers, free_bytes=free_gib * GIB, total_bytes=80 * GIB)
    assert found == pytest.approx(share)


def test_a_cpu_needs_nothing_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: pytest.fail("there is none"))
    settle(torch.device("cpu"), memory=None, workers=1)


def test_settling_caps_the_memory_and_turns_tf32_off(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.update(device=device))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GPU")
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *cap: calls.update(cap=cap))
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        settle(GPU, memory=None, workers=2)
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert torch.get_float32_matmul_precision() == "highest"
    assert calls == {"device": GPU, "cap": (0.5 - 0.5 / 80, GPU)}


@pytest.mark.parametrize(
    ("capability", "faithful", "precision"),
    [
        ((9, 0), {"bf16", "fp16"}, "bf16"),
        ((9, 0), {"fp16"}, "fp16"),
        ((9, 0), set(), "fp32"),
        ((8, 0), {"bf16"}, "bf16"),
        ((7, 5), {"bf16", "fp16"}, "fp16"),
        ((7, 5), {"bf16"}, "fp32"),
        ((6, 1), {"bf16", "fp16"}, "fp32"),
    ],
)
def test_auto_takes_what_the_device_computes_natively_and_the_model_bears(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], faithful: set[str], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert pick_precision("auto", GPU, lambda name: name in faithful) == precision
    assert set(native_precisions(GPU)) <= {"bf16", "fp16"}
