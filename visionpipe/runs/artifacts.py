"""Saves the artifacts of a run as files, before the ledger says that their inputs are done.

Artifacts expire in the store. What is gone before it was saved is asked for again: its input is redone, not lost.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionpipe.errors import ArtifactExpiredError
from visionpipe.runs.files import ARTIFACTS, artifact_names, is_whole, make_folder, write_whole
from visionpipe.runs.ledger import Ledger
from visionpipe.runs.lock import writable
from visionpipe.runs.rows import Chunk, InputState
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.jobs import Envelope, Item
from visionpipe.schemas.results import Result
from visionpipe.tasks import result_class
from visionpipe.wire import error_info

if TYPE_CHECKING:
    from visionpipe.aclient import AsyncClient

logger = logging.getLogger("visionpipe.runs")

AT_ONCE = 8
"""Artifacts that are fetched at the same time; so many are in memory at most."""
MEND_BATCH = 256

Patiently = Callable[[Callable[[], Awaitable[bytes]]], Awaitable[bytes]]
"""Repeats a call while the store is away."""


@dataclass
class Artifacts:
    """Fetches and saves what results name.

    Args:
        client: A connected client.
        out: The output folder.
        task: The run's task.
    """

    client: AsyncClient
    out: Path
    task: str
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE), init=False)

    async def save(self, chunk: Chunk, envelope: Envelope[Result], patiently: Patiently) -> Envelope[Result]:
        """Save the artifacts of a chunk.

        Args:
            chunk: The chunk.
            envelope: What its job ended with.
            patiently: How to bear with a store that is away.

        Returns:
            The envelope; an item whose artifacts have expired has that error instead of its result.

        Raises:
            LedgerError: A file cannot be written.
        """
        if not has_artifacts(self.task):
            return envelope
        items = await asyncio.gather(*(self._save(chunk, item, patiently) for item in envelope.items))
        return envelope.model_copy(update={"items": items})

    async def _save(self, chunk: Chunk, item: Item[Result], patiently: Patiently) -> Item[Result]:
        path = chunk.path(item.index)
        if item.result is None or path is None:
            return item
        try:
            await self.save_one(path, item.result, patiently)
        except ArtifactExpiredError as error:
            return item.model_copy(update={"result": None, "error": error_info(error)})
        return item

    async def save_one(self, path: bytes, result: Result, patiently: Patiently) -> None:
        """Save the artifacts of one input; files that are there already stay.

        Raises:
            ArtifactExpiredError: One of them is gone from the store.
            LedgerError: A file cannot be written.
        """
        for ref, name in artifact_names(path, result).values():
            if await asyncio.to_thread(is_whole, self.out, name, ref, closely=True):
                continue
            async with self._turns:
                data = await patiently(partial(self.client.artifact, ref))
                await asyncio.to_thread(self._write, name, data)

    def _write(self, name: str, data: bytes) -> None:
        make_folder(self.out, ARTIFACTS)
        with writable(self.out):
            write_whole(os.fsencode(self.out) + b"/" + name.encode(), data)

    async def mend(self, ledger: Ledger) -> int:
        """Fetch again what an earlier sitting saved and is no longer there; inputs for which that fails are redone.

        Returns:
            How many inputs are pending again.
        """
        if not has_artifacts(self.task):
            return 0
        lost: list[bytes] = []
        walk = _missing(ledger, self.out, self.task)
        while batch := await asyncio.to_thread(lambda: list(itertools.islice(walk, MEND_BATCH))):
            for path, result in batch:
                try:
                    await self.save_one(path, result, _at_once)
                except ArtifactExpiredError:
                    lost.append(path)
        if lost:
            logger.warning("%d inputs are done again: their files are gone, here and in the store", len(lost))
            await asyncio.to_thread(ledger.redo, lost)
        return len(lost)


async def _at_once(call: Callable[[], Awaitable[bytes]]) -> bytes:
    return await call()


@cache
def has_artifacts(task: str) -> bool:
    """Whether results of a task can name artifacts."""
    return ArtifactRef.__name__ in result_class(task).model_json_schema().get("$defs", {})


def done_results(ledger: Ledger, task: str) -> Iterator[tuple[bytes, Result]]:
    """Every input that is done with its result, streamed from the ledger."""
    for row in ledger.rows():
        if row.state is InputState.DONE and row.answer:
            yield row.path, read_result(task, json.loads(row.answer)["result"])


def read_result(task: str, data: dict[str, Any]) -> Result:
    """Read a result from the JSON data of an answer."""
    return result_class(task).model_validate_json(json.dumps(data))


def _missing(ledger: Ledger, out: Path, task: str) -> Iterator[tuple[bytes, Result]]:
    for path, result in done_results(ledger, task):
        if not all(is_whole(out, name, ref) for ref, name in artifact_names(path, result).values()):
            yield path, result
