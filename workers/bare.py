"""``visionpipe bare``: the yardstick, a plain loop over a folder in one process, with no queue anywhere."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visionpipe.runs.names import as_text
from visionpipe.runs.scan import Scanner
from visionpipe.settings import load_settings

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(help="Classify a folder in one plain loop, to compare folder runs with.")


@app.command("bare")
def bare(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of images.")],
    model: Annotated[str, typer.Option("--model", "-m", help="NAME or NAME@DIGEST.")],
    batch: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over the folder; the fastest counts.")] = 1,
) -> None:
    """Classify a folder in one plain loop (read, decode, preprocess, forward in fp32 on the CPU), and print JSON.

    Files that are no images are passed over. The answers are printed too, to be held against a run's.
    """
    # Loading is not counted: the service, too, is measured once its worker is warm.
    loop = BareLoop(model, batch)
    paths = [found.path for found in Scanner(os.fsencode(folder)) if found.skip is None and found.code is None]
    fastest_s, answers = float("inf"), {}
    for _ in range(rounds):
        start_s = time.perf_counter()
        answers = dict(loop.run(folder, paths))
        fastest_s = min(fastest_s, time.perf_counter() - start_s)
    rate = len(answers) / fastest_s if answers else 0.0
    typer.echo(json.dumps({"images": len(answers), "seconds": fastest_s, "images_per_s": rate, "answers": answers}))


class BareLoop:
    """A model and the few lines that everybody writes around it.

    Args:
        model: ``name`` or ``name@digest``.
        batch: Images in one forward pass.
    """

    def __init__(self, model: str, batch: int) -> None:
        from models.catalog import Catalog
        from models.loading import hooks, load
        from models.preprocess import Preprocess

        self._settings = load_settings()
        entry = Catalog(self._settings.models).find(model)
        self._network = load(entry)
        self._hooks = hooks(entry)
        self._preprocess = self._hooks.preprocess or Preprocess(entry.card.preprocess)
        self._labels = entry.card.labels
        self._batch = batch

    def run(self, folder: Path, paths: list[bytes]) -> Iterator[tuple[str, str]]:
        """Yield path and most probable label of every file that is an image."""
        waiting: list[tuple[bytes, Tensor]] = []
        for path in paths:
            prepared = self._prepare(folder / os.fsdecode(path))
            if prepared is None:
                continue
            waiting.append((path, prepared))
            if len(waiting) == self._batch:
                yield from self._classify(waiting)
                waiting = []
        if waiting:
            yield from self._classify(waiting)

    def _prepare(self, path: Path) -> Tensor | None:
        from models.errors import InvalidImage
        from models.images import decode

        limits = self._settings
        try:
            decoded = decode(path.read_bytes(), max_bytes=limits.max_image_bytes, max_pixels=limits.max_image_pixels)
        except (InvalidImage, OSError):
            return None
        return self._preprocess(decoded.image)

    def _classify(self, waiting: list[tuple[bytes, Tensor]]) -> Iterator[tuple[str, str]]:
        import torch

        with torch.inference_mode():
            logits: Tensor = self._network(torch.stack([prepared for _, prepared in waiting]))
            if self._hooks.postprocess is not None:
                logits = self._hooks.postprocess(logits)
            best = logits.softmax(dim=1).argmax(dim=1).tolist()
        for (path, _), class_id in zip(waiting, best, strict=True):
            yield as_text(path), self._labels[class_id]
