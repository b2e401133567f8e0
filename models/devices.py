"""Choosing where to compute, by name."""

from __future__ import annotations

import torch

from models.errors import NoSuchDevice


def pick_device(wanted: str) -> torch.device:
    """Choose a device.

    Args:
        wanted: ``auto`` (the first CUDA device, else the CPU), ``cpu``, ``cuda`` (the first) or ``cuda:N``.

    Returns:
        The device; a CUDA device always with its index.

    Raises:
        NoSuchDevice: It is not here.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return torch.device("cuda:0" if visible else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise NoSuchDevice(f"Expected a device such as auto, cpu or cuda:0, got {wanted!r}.") from error
    if device.type == "cuda" and (device.index or 0) < visible:
        # Threads that never chose a device would otherwise each mean their own by it.
        return torch.device("cuda", device.index or 0)
    if device.type != "cpu":
        raise NoSuchDevice(
            f"Expected a device of this machine (auto, cpu, cuda:N), got {wanted!r}; it shows {visible} CUDA devices. "
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu."
        )
    return device
