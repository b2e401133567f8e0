"""Compiler, torch and devices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visionpipe.cli.checks.base import Check
from visionpipe.cli.output import size

TORCH_TIMEOUT_S = 120.0

# In a process of its own: a broken installation of torch may end the process that imports it.
_TORCH = """
import json, torch
facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cuda": []}
try:
    import torchvision
    facts["torchvision"] = torchvision.__version__
    kept = torchvision.ops.nms(torch.tensor([[0., 0., 1., 1.]]), torch.tensor([1.]), 0.5)
    facts["ops"] = kept.tolist() == [0]
except (ImportError, RuntimeError, AttributeError) as error:
    facts["fault"] = str(error).splitlines()[0]
for index in range(torch.cuda.device_count()):
    major, minor = torch.cuda.get_device_capability(index)
    memory = torch.cuda.get_device_properties(index).total_memory
    facts["cuda"].append([torch.cuda.get_device_name(index), major, minor, memory])
print(json.dumps(facts))
"""


def compiler() -> Check:
    """Whether models can be compiled."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        return Check(
            "C++ compiler", "warn", "none", "Models stay uncompiled and slower; install g++, or name one in CXX."
        )
    return Check("C++ compiler", "ok", found)


def torch() -> Iterator[Check]:
    """Whether torch and torchvision work together, and on what."""
    command = [sys.executable, "-P", "-c", _TORCH]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        yield Check("torch", "fail", f"not imported within {TORCH_TIMEOUT_S:.0f} s", "Install it anew.")
        return
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        if "No module named 'torch'" in last:
            advice = "To host models here: pip install 'visionpipe[worker]'"
            yield Check("torch", "note", "not installed: this machine can ask, but not host models", advice)
        else:
            yield Check("torch", "fail", last, "Install it anew: pip install --force-reinstall torch torchvision")
        return
    facts = json.loads(done.stdout)
    found = f"torch {facts['torch']}, torchvision {facts.get('torchvision', 'missing')}"
    if facts.get("ops"):
        yield Check("torch", "ok", found)
    else:
        fault = facts.get("fault", "its operators give wrong answers")
        yield Check("torch", "fail", f"{found}: {fault}", "Install a torch and a torchvision that belong together.")
    yield device(facts)


def device(facts: dict[str, Any]) -> Check:
    """Which device a worker would take, and its fast precision."""
    if facts["cuda"]:
        found = [
            f"cuda:{index} {name}, {size(memory)}, {'bf16' if major >= 8 else 'fp32 and fp16 only'}"
            for index, (name, major, _, memory) in enumerate(facts["cuda"])
        ]
        return Check("device", "ok", "; ".join(found))
    native = sorted({"amx_bf16", "avx512_bf16"} & _cpu_flags())
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
    precision = f"native bf16 ({', '.join(native)})" if native else "fp32 only"
    return Check("device", "ok", f"cpu, {cores}, {precision}")


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    flags = (line for line in info.read_text().splitlines() if line.startswith("flags"))
    return set(next(flags, "").partition(":")[2].split())
