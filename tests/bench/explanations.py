"""Interactive latency, idle and while the worker explains with LIME: python -m tests.bench.explanations.

Holds when the p95 beside LIME is at most twice the idle p95 and one micro-batch.
"""

from __future__ import annotations

import sys
import time
import uuid

import torch

from models.attribution import Question, Settings, attributor
from models.catalog import Catalog
from tests.bench.common import Stack, pictures, quantile, stack, table
from tests.bench.latency import interactive_ms
from visionpipe.client import Client
from visionpipe.queue import calls, run
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import JobRecord, Lane
from visionpipe.tasks import build_request
from workers.hosted import HostedModel

REQUESTS = 400
SAMPLES = 1000
LOAD_S = 120
"""For at least so long the worker has explanations to make."""


class Explaining:
    """A job of images that a worker explains with LIME."""

    def __init__(self, bench: Stack, images: list[bytes]) -> None:
        self._bench = bench
        self.job = uuid.uuid4().hex[:12]
        payloads = {f"blob:{self.job}:{index}": data for index, data in enumerate(images)}
        refs = [BlobImage(key=key, size_bytes=len(data)) for key, data in payloads.items()]
        options = {"method": "lime", "samples": SAMPLES, "overlay": False}
        request = build_request("explanation", model=bench.model, images=refs, options=options)
        wanted = calls.submit(
            request, job=self.job, lane=Lane.BULK, client="bench", settings=bench.settings, payloads=payloads
        )
        run(bench.redis, wanted)

    def wait_until_busy(self) -> None:
        """Wait until samples are being evaluated."""
        while self._record().progress is None:
            time.sleep(0.05)
        time.sleep(2)

    def stop(self) -> None:
        """End the job, which must not have ended before."""
        if self._record().state.ended:
            raise RuntimeError(f"the explanations ended too soon: {self._record().error}")
        run(self._bench.redis, calls.cancel(self.job))

    def _record(self) -> JobRecord:
        record = run(self._bench.redis, calls.read(self.job))
        assert record is not None
        return record


def micro_batch_ms(bench: Stack) -> float:
    """The median device step of LIME, made here as the idle worker makes it."""
    (record,) = run(bench.redis, calls.workers())
    hosted = HostedModel(Catalog(bench.root.parent / "models").find(bench.model), device="cpu")
    hosted.set_precision(record.precision)
    how, quick = hosted.card.preprocess, hosted.classifier()
    x_1CHW = torch.rand(1, len(how.mode), *(how.input_size_hw or (224, 224)))
    bounds = torch.zeros(len(how.mode)), torch.ones(len(how.mode))
    question = Question(
        hosted.classifier(hosted.master), x_1CHW, 0, torch.zeros_like(x_1CHW), *bounds,
        forward=lambda x_NCHW: quick(hosted.to_input(x_NCHW)),
    )  # fmt: skip
    settings = Settings("lime", samples=SAMPLES, algorithm="grid", max_batch=hosted.card.serving.max_batch)
    taken, last = [], time.perf_counter()
    for _ in attributor(question, settings).steps():
        taken.append((time.perf_counter() - last) * 1000)
        last = time.perf_counter()
    return quantile(taken, 0.5)


def measure(model: str) -> list[object]:
    """Measure one model."""
    with stack(model) as bench, Client(settings=bench.settings) as client:
        images = pictures(model, 64)
        interactive_ms(bench, client, images[0], 20)
        bench.wait(Explaining(bench, images[:1]).job, every_s=0.01)
        started = time.perf_counter()
        bench.wait(Explaining(bench, images[1:5]).job, every_s=0.01)
        whole_s = (time.perf_counter() - started) / 4
        step = micro_batch_ms(bench)
        idle = interactive_ms(bench, client, images[0], REQUESTS)
        load = Explaining(bench, [images[index % 64] for index in range(round(LOAD_S / whole_s) + 8)])
        load.wait_until_busy()
        stages: dict[str, list[float]] = {}
        loaded = interactive_ms(bench, client, images[0], REQUESTS, stages)
        load.stop()
    bound = 2 * quantile(idle, 0.95) + step
    holds = "yes" if quantile(loaded, 0.95) <= bound else "NO"
    quantiles = [quantile(times, share) for times in (idle, loaded) for share in (0.5, 0.95)]
    where = " ".join(f"{name} {quantile(times, 0.5):.1f}/{quantile(times, 0.95):.1f}" for name, times in stages.items())
    return [model, whole_s, *quantiles, step, bound, holds, where]


def main() -> None:
    """Print the table."""
    models = sys.argv[1:] or ["lenet-digits", "resnet18-generated"]
    head = [
        "model",
        "LIME alone, s",
        "idle p50",
        "idle p95",
        "LIME p50",
        "LIME p95",
        "micro-batch",
        "bound",
        "holds",
        "p50/p95 beside LIME by stage",
    ]
    title = f"Interactive latency beside LIME of {SAMPLES:,} samples, ms"
    table(title, head, [measure(model) for model in models])


if __name__ == "__main__":
    main()
