"""A worker without its Celery shell: a tiny real network, a real Redis, everything else as in production."""

from __future__ import annotations

import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from models.catalog import Catalog, Entry
from visionpipe.fetch import Fetcher
from visionpipe.queue import RawEnvelope, calls, connect, run
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import Item, Lane, Progress, WorkerRecord
from visionpipe.schemas.results import ClassificationResult, ClassScore
from visionpipe.settings import Settings
from visionpipe.store import open_store
from visionpipe.tasks import build_request, parse_item
from workers.classification import ClassificationRuntime
from workers.engine import Engine, Parts
from workers.hosted import HostedModel
from workers.keeper import Keeper
from workers.metrics import Metrics
from workers.runtime import Runtime
from workers.window import Window

RAISES, NOT_A_NUMBER, EXITS = 255, 254, 253
"""Grey levels on which the network fails."""

NETWORK = """
import torch

class Grey(torch.nn.Module):
    '''Class k is the grey level k, so that every picture has its own right answer.'''

    def __init__(self):
        super().__init__()
        self.register_buffer("levels", torch.arange(256.0))

    def forward(self, x_NCHW):
        level_N1 = x_NCHW.float().mean(dim=(1, 2, 3))[:, None] * 255
        if bool((level_N1 > 254.5).any()):
            raise ValueError("white breaks this network")
        if bool(((level_N1 > 252.5) & (level_N1 < 253.5)).any()):
            raise SystemExit(3)
        logits_NK = -((level_N1 - self.levels) ** 2)
        return torch.where((level_N1 > 253.5) & (level_N1 < 254.5), torch.nan, logits_NK)

def louder(logits_NK):
    return 2 * logits_NK
"""

CARD = """
name = "{name}"
tasks = ["classification"]
network = "net:Grey"
licence = "CC0-1.0"
labels = []
[preprocess]
mode = "L"
mean = [0.0]
std = [1.0]
[serving]
max_batch = 16
[provenance]
origin = "made for a test"
"""


def write_model(folder: Path, name: str, *, card: str = CARD, network: str = NETWORK) -> None:
    """Write one user model."""
    (folder / name).mkdir(parents=True)
    (folder / name / "card.toml").write_text(card.format(name=name))
    (folder / name / "net.py").write_text(network)


def png(level: int, size_wh: tuple[int, int] = (4, 4)) -> bytes:
    """Draw a picture of one grey level."""
    stream = io.BytesIO()
    Image.new("L", size_wh, level).save(stream, "PNG")
    return stream.getvalue()


def wait_for(condition: Callable[[], Any], timeout_s: float = 15) -> Any:
    """Wait until something is true, and give it."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
    return found


class WatchedRuntime(ClassificationRuntime):
    """Classification that notes its micro-batches and can be held in the middle of one."""

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self.batches: list[list[tuple[str, int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.room = 10_000

    def forward(self, batch: Sequence[Any]) -> Any:
        self.batches.append([(work.job.claim.job, work.index) for work in batch])
        assert self.gate.wait(20)
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(batch)


class StepsRuntime(Runtime):
    """Long work: as many short steps as the picture's grey level says; a stopped one hands over what it has."""

    is_long = True

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self.trace: list[str] = []
        self.ticks: list[int] = []
        self.clock: Callable[[], int] = lambda: 0
        self.pause_s = 0.002

    def prepare(self, work: Any) -> None:
        work.prepared = work.image.image.getpixel((0, 0))

    def steps(self, work: Any) -> Iterator[Progress]:  # type: ignore[override]
        for step in range(work.prepared):
            if work.stopping:
                return self.answer(work, step, partial=True)
            self.trace.append(work.job.claim.job)
            self.ticks.append(self.clock())
            time.sleep(self.pause_s)
            if step == RAISES - 1:
                raise ValueError("too long")
            yield Progress(done=step + 1, total=work.prepared)
        return self.answer(work, work.prepared, partial=False)

    def answer(self, work: Any, step: int, *, partial: bool) -> ClassificationResult:
        scores = [ClassScore(class_id=step, label=str(step), score=1.0)]
        return ClassificationResult(image_size_wh=work.size_wh, classes=scores, partial=partial)

    def warm_up(self, num_images: int) -> None:
        """Nothing to warm."""

    def parity(self, precision: str) -> bool:
        return True


class Rig:
    """An engine, its keeper, and a client's view of the queue."""

    def __init__(self, hosted: HostedModel, settings: Settings, *, max_batch: int = 16) -> None:
        assert settings.redis_url is not None
        self.settings = settings
        self._clients = [connect(settings.redis_url) for _ in range(3)]
        self.redis, commit_redis, keeper_redis = self._clients
        self.hosted = hosted
        self.watched, self.long = WatchedRuntime(hosted), StepsRuntime(hosted)
        self.window, self.metrics = Window(max_batch), Metrics(hosted.card.name)
        store = open_store(settings, self.redis)
        parts = Parts(
            hosted,
            {"classification": self.watched, "explanation": self.long},
            store,
            Fetcher(store, settings, settings.media_roots),
            self.window,
            self.metrics,
        )
        self.engine = Engine(self.redis, commit_redis, "w1", parts, settings, max_batch=max_batch)
        record = WorkerRecord(
            worker="w1", model=hosted.card.name, digest=hosted.entry.digest, tasks=["classification"], device="cpu",
            precision="fp32", lanes=list(Lane), max_batch=max_batch, version="0", started_at=time.time(),
        )  # fmt: skip
        self.keeper = Keeper(
            keeper_redis, record, settings,
            store=store, held=self.engine.held, window=self.window, metrics=self.metrics,
        )  # fmt: skip
        self.engine.batcher.start()
        wait_for(lambda: self.engine.batcher.alive)

    def submit(
        self,
        levels: Sequence[int],
        *,
        lane: Lane = Lane.INTERACTIVE,
        task: str = "classification",
        sizes: Sequence[tuple[int, int]] | None = None,
        accept: bool = True,
        **fields: Any,
    ) -> str:
        """Submit pictures of these grey levels, and hand the ticket to the engine."""
        job = uuid.uuid4().hex[:12]
        sizes = sizes or [(4, 4)] * len(levels)
        payloads = {f"blob:{job}:{i}": png(level, sizes[i]) for i, level in enumerate(levels)}
        refs = [BlobImage(key=key, size_bytes=len(data), name=f"n{key[-1]}") for key, data in payloads.items()]
        if task == "classification":
            fields["options"] = {"top_k": 2, **fields.pop("options", {})}
        request = build_request(task, model=self.hosted.card.name, images=refs, **fields)
        run(
            self.redis,
            calls.submit(
                request, job=job, lane=lane, client="c1", settings=self.settings, payloads=payloads,
                wait_for_worker=True,
            ),
        )  # fmt: skip
        if accept:
            self.engine.accept(job)
        return job

    def envelope(self, job: str) -> RawEnvelope:
        """Read a job."""
        found = run(self.redis, calls.envelope(job))
        assert found is not None
        return found

    def ended(self, job: str, timeout_s: float = 15) -> RawEnvelope:
        """Wait for a job's end, here and in Redis."""
        wait_for(lambda: self.envelope(job).record.state.ended, timeout_s)
        return self.envelope(job)

    def answers(self, job: str) -> list[int | str]:
        """Wait for a job's end; gives each item's best class, or its error's code."""
        items: list[Item[Any]] = [parse_item("classification", text) for text in self.ended(job).items]
        return [item.result.classes[0].class_id if item.result else item.error.code for item in items]  # type: ignore[union-attr]

    def close(self) -> None:
        self.watched.gate.set()
        self.engine.drain(5)
        self.keeper.close()
        for client in self._clients:
            client.close()


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "grey")
    return folder


@pytest.fixture(scope="session")
def entry(models_folder: Path) -> Entry:
    return Catalog(models_folder).find("grey")


@pytest.fixture(scope="session")
def hosted(entry: Entry) -> HostedModel:
    model = HostedModel(entry, device="cpu")
    model.set_precision("fp32")
    return model


@pytest.fixture
def make_rig(hosted: HostedModel, settings: Settings) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        changed = settings.model_copy(update=options.pop("settings", {}))
        rigs.append(Rig(hosted, changed, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()
