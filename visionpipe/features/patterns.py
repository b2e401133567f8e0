"""The second pass: the most exciting images go through the deconvnet, and their patterns and patches become files."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from visionpipe.errors import QueueFullError, ServiceError, VisionPipeError
from visionpipe.features.ranking import Excited, UnitKey, by_image
from visionpipe.runs.files import MARK, make_folder, write_whole
from visionpipe.runs.lock import writable
from visionpipe.runs.names import as_text
from visionpipe.schemas.jobs import Lane
from visionpipe.schemas.results import FeatureVisualizationResult, UnitView

if TYPE_CHECKING:
    from visionpipe.aclient import AsyncClient

PATTERNS, JOURNAL = "patterns", "patterns.jsonl"
"""The folder of the pictures, and what tells a later sitting which are there."""
AT_ONCE = 8
"""Images under way at the same time."""


class Pattern(NamedTuple):
    """The pictures of one unit in one image, as files relative to the output folder."""

    pattern: str | None = None
    """The projected activation."""
    patch: str | None = None
    """The receptive field's crop."""


class NotProjected(NamedTuple):
    """An image whose patterns could not be made."""

    path: str
    layer: str
    message: str


@dataclass
class Patterns:
    """Asks for patterns and keeps them; what an earlier sitting has kept is not asked for again.

    Args:
        client: A connected client.
        folder: The folder of images.
        out: The output folder, locked by the caller.
        model: The pinned model, ``name@digest``.
        run: Id of the run that ranked; another run's pictures are not taken over.
    """

    client: AsyncClient
    folder: Path
    out: Path
    model: str
    run: str
    failures: list[NotProjected] = field(default_factory=list)
    _found: dict[str, Pattern] = field(default_factory=dict, init=False)

    async def make(
        self, units: dict[UnitKey, list[Excited]], on_progress: Callable[[int, int], None]
    ) -> dict[tuple[UnitKey, bytes], Pattern]:
        """Have the patterns of all units in their images made.

        Args:
            units: As ranked.
            on_progress: Told how many pairs of an image and a layer are done, and how many there are.

        Returns:
            For each unit and image what there is; those that failed are missing and stand in ``failures``.

        Raises:
            ServiceError: Redis or the output folder cannot be reached; what was made so far is kept.
        """
        self._read_journal()
        make_folder(self.out, PATTERNS)
        wanted = list(by_image(units))
        turns, done = asyncio.Semaphore(AT_ONCE), 0

        async def one(path: bytes, layer: str, channels: list[tuple[int, Excited]]) -> None:
            nonlocal done
            async with turns:
                await self._project(path, layer, channels)
            done += 1
            on_progress(done, len(wanted))

        try:
            async with asyncio.TaskGroup() as group:
                for entry in wanted:
                    group.create_task(one(*entry))
        except* ServiceError as errors:
            raise errors.exceptions[0] from None
        return {
            ((layer, channel), path): self._found[key]
            for path, layer, channels in wanted
            for channel, image in channels
            if (key := self._key(layer, channel, image)) in self._found
        }

    async def _project(self, path: bytes, layer: str, channels: list[tuple[int, Excited]]) -> None:
        missing = [(channel, image) for channel, image in channels if not self._is_there(layer, channel, image)]
        if not missing:
            return
        try:
            result = await self._ask(path, layer, [channel for channel, _ in missing])
            for unit, (channel, image) in zip(result.units, missing, strict=True):
                await self._keep(self._key(layer, channel, image), path, unit)
        except ServiceError:
            raise
        except VisionPipeError as error:
            self.failures.append(NotProjected(as_text(path), layer, error.message))

    async def _ask(self, path: bytes, layer: str, channels: list[int]) -> FeatureVisualizationResult:
        options = {"method": "deconvnet", "layers": [layer], "channels": channels, "sheet": False}
        source = Path(os.fsdecode(os.fsencode(self.folder) + b"/" + path))
        while True:
            try:
                job = await self.client.submit(
                    FeatureVisualizationResult,
                    [source],
                    model=self.model,
                    options=options,
                    lane=Lane.BULK,
                    wait_for_worker=True,
                )
            except QueueFullError as error:
                await asyncio.sleep(float(error.details.get("retry_after_s", 1.0)))
                continue
            try:
                return await job.result()
            except asyncio.CancelledError:
                # Nobody would collect its answer, and it would still take a worker's time.
                with suppress(VisionPipeError):
                    await job.cancel()
                raise

    async def _keep(self, key: str, path: bytes, unit: UnitView) -> None:
        names = {}
        for what, ref in (("pattern", unit.pattern), ("patch", unit.patch)):
            if ref is not None:
                names[what] = _file_name(path, unit, what)
                data = await self.client.artifact(ref)
                await asyncio.to_thread(self._write, names[what], data)
        self._found[key] = Pattern(**names)
        with writable(self.out), (self.out / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"run": self.run, "key": key, **names}) + "\n")

    def _write(self, name: str, data: bytes) -> None:
        with writable(self.out):
            write_whole(os.fsencode(self.out / name), data)

    def _is_there(self, layer: str, channel: int, image: Excited) -> bool:
        known = self._found.get(self._key(layer, channel, image))
        return known is not None and all((self.out / name).is_file() for name in known if name is not None)

    def _key(self, layer: str, channel: int, image: Excited) -> str:
        # An image that has changed since excites the unit otherwise, and is asked for again.
        return json.dumps([layer, channel, base64.b64encode(image.path).decode(), image.activation])

    def _read_journal(self) -> None:
        journal = self.out / JOURNAL
        if not journal.is_file():
            return
        for line in journal.read_text(encoding="utf-8").splitlines():
            try:
                entry: dict[str, Any] = json.loads(line)
            except ValueError:
                # The last line of a sitting that was killed.
                continue
            if entry.get("run") == self.run:
                self._found[str(entry["key"])] = Pattern(entry.get("pattern"), entry.get("patch"))


def discard_patterns(out: Path) -> None:
    """Throw away what an earlier run has kept; a folder that is not ours stays."""
    (out / JOURNAL).unlink(missing_ok=True)
    if (out / PATTERNS / MARK).is_file():
        for file in (out / PATTERNS).iterdir():
            file.unlink()


def _file_name(path: bytes, unit: UnitView, what: str) -> str:
    layer = re.sub(r"[^A-Za-z0-9_.-]+", "_", unit.layer)
    return f"{PATTERNS}/{layer}-{unit.channel}-{hashlib.sha256(path).hexdigest()[:20]}-{what}.png"
