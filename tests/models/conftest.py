"""Parts that the tests of `models` share: pictures as bytes, cards as text, folders of models."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

MINIMAL_CARD = """\
name = "{name}"
tasks = ["classification"]
network = "{network}"
licence = "CC0-1.0"
{more}
[provenance]
origin = "a test"
"""


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    def encode_picture(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
        stream = io.BytesIO()
        image.save(stream, file_format, **options)
        return stream.getvalue()

    return encode_picture


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a user's model folder; gives the folder of all models."""

    def write(
        name: str = "mine",
        *,
        network: str = "lenet5",
        more: str = "",
        state: dict[str, torch.Tensor] | None = None,
        code: dict[str, str] | None = None,
    ) -> Path:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        card = MINIMAL_CARD.format(name=name, network=network, more=more)
        if state is not None:
            card += '[weights]\nfile = "weights.safetensors"\n'
            save_file({key: value.contiguous() for key, value in state.items()}, folder / "weights.safetensors")
        (folder / "card.toml").write_text(card)
        for file, text in (code or {}).items():
            (folder / file).write_text(text)
        return folder.parent

    return write


def _photographs() -> list[Image.Image]:
    from skimage import data

    names = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "camera", "moon", "brick")
    pictures = [Image.fromarray(getattr(data, name)()) for name in names]
    spec = importlib.util.find_spec("ultralytics")
    assert spec is not None
    assert spec.origin is not None
    assets = Path(spec.origin).parent / "assets"
    return [*pictures, *(Image.open(assets / name).convert("RGB") for name in ("bus.jpg", "zidane.jpg"))]


@pytest.fixture(scope="session")
def photographs(encode: Callable[..., bytes]) -> list[bytes]:
    """Fifty photographs of mixed sizes and shapes, as JPEG and PNG files: crops and resizes of ten originals."""
    random = np.random.default_rng(7)
    files = []
    for number in range(5):
        for original in _photographs():
            width, height = original.size
            left, top = int(random.integers(0, width // 3)), int(random.integers(0, height // 3))
            right, bottom = int(random.integers(width * 2 // 3, width)), int(random.integers(height * 2 // 3, height))
            crop = original.crop((left, top, right, bottom))
            new_size = (int(random.integers(90, 800)), int(random.integers(90, 800)))
            picture = crop if number == 0 else crop.resize(new_size, Image.Resampling.BICUBIC)
            jpeg = len(files) % 2 == 0
            files.append(encode(picture, "JPEG", quality=90) if jpeg else encode(picture, "PNG"))
    return files
