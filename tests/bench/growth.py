"""What grows with batch, queue and run length, and what must not: python -m tests.bench.growth [--quick] [-o FOLDER].

Memory of worker, client and Redis, and the time that each image takes from a core in each of them. Writes
``growth.json`` and ``growth.png`` and prints tables. In full it takes about ten minutes on two cores; ``--quick`` takes
one, at a twentieth of the lengths. The README's figure: ``-o tests/bench/figures``. ``--only drain`` measures that part
anew and takes the others from the folder's ``growth.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.bench.common import Stack, pictures, quantile, stack, start_run, table, write_networks
from tests.bench.growth_plot import draw
from tests.bench.overhead import picture, write_nothing
from visionpipe.client import Client
from visionpipe.queue import calls, connect, run
from visionpipe.queue.records import Accounts
from visionpipe.schemas.images import InlineImage
from visionpipe.schemas.jobs import Lane
from visionpipe.tasks import build_request
from workers.persist import run_all

BATCHES = (1, 2, 4, 8, 16, 32, 64)
QUEUES = (1, 10, 100, 1000, 10_000, 100_000)
RUNS = (1000, 3000, 10_000, 30_000, 100_000)
QUICK = 20
"""How many times shorter the longest queue and run are with ``--quick``."""
AT_ONCE = 200
"""Jobs that are put into the queue in one round trip."""
SHORT, PORTION, TURNS = 1000, 900, 5
"""Jobs of a short queue, how many of a queue are worked off at a time, and how often at each length."""
ASKED = 200
"""Interactive jobs at each length of the queue."""
RESULT_TTL_S = 1
"""Finished jobs are kept for so long here: for a day, as by default, Redis would hold every one of them. So short, that
what it takes to throw them away is counted at every length."""
FLAT_MB, FLAT_RATIO = 64.0, 1.25
"""What should not grow may, from the first length of at least 1,000 to the last, by as much."""
FLAT_US = 10.0
"""Or by so many microseconds of a core, where there are hardly any."""
STEADY_FROM = 1000
"""Shorter lengths have costs of the beginning in them."""


@dataclass(frozen=True)
class Spent:
    """Seconds of a core that each process has used."""

    client: float
    worker: float
    redis: float

    def since(self, before: Spent, images: int) -> dict[str, float]:
        """Microseconds of a core for each image since then."""
        mine, theirs = asdict(self), asdict(before)
        return {f"{name}_us": 1e6 * (mine[name] - theirs[name]) / images for name in mine}


def spent(bench: Stack, *, children: bool = False) -> Spent:
    """Read what client (this process, or those it has waited for), worker and Redis have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return Spent(
        client=used.ru_utime + used.ru_stime,
        worker=sum(psutil.Process(bench.process.pid).cpu_times()[:2]),
        redis=sum(bench.redis.info("cpu")[f"used_cpu_{kind}"] for kind in ("user", "sys")),
    )


def mb(num_bytes: float) -> float:
    """Write bytes as MiB."""
    return round(num_bytes / 2**20, 2)


def by_batch(batches: Sequence[int], model: str) -> Iterator[dict[str, float]]:
    """Give the worker's memory after bulk work in micro-batches of each size; every size has a worker of its own."""
    images = pictures(model, 3 * max(batches))
    for batch in batches:
        with stack(model, "--max-batch", str(batch), "--precision", "fp32") as bench:
            idle = bench.rss_mb()
            bench.wait(bench.submit_blobs(images[: max(3 * batch, 16)], Lane.BULK), every_s=0.01)
            yield {"batch": batch, "idle_mb": round(idle, 1), "worker_mb": round(bench.rss_mb(), 1)}


def by_queue(lengths: Sequence[int]) -> Iterator[dict[str, float]]:
    """Give memory, and what one more job takes, while so many jobs of one image wait in the other lane."""
    image, tiny = picture(1000), picture(200)
    with short_lived(), stack("nothing", "--lanes", "interactive", "--precision", "fp32", write=write_nothing) as bench:
        queued = 0
        with Client(bench.settings.redis_url, settings=bench.settings) as client:
            for _ in range(ASKED):
                client.classify(image, model="nothing")
            for length in lengths:
                fill(bench, tiny, length - queued)
                queued = length
                taken, before = [], spent(bench)
                for _ in range(ASKED):
                    started = time.perf_counter()
                    client.classify(image, model="nothing")
                    taken.append(1000 * (time.perf_counter() - started))
                yield {
                    "queued": length, "p50_ms": round(quantile(taken, 0.5), 3), **spent(bench).since(before, ASKED),
                    **memory(bench),
                }  # fmt: skip


def by_drain(lengths: Sequence[int]) -> Iterator[dict[str, float]]:
    """Give what a job of one image takes of a worker behind which so many wait, and of one behind which few do.

    They take turns, each with a Redis of its own: while a long queue is worked off the pace of a shared machine changes
    by more than anything that is to be found out. A worker holds two seconds of work at most, however long the queue.
    """
    with short_lived(), idle_stack() as long, idle_stack() as short:
        for length in lengths:
            turns = []
            for turn in range(TURNS + 1):
                for bench, waiting in ((long, length), (short, SHORT)):
                    fill(bench, picture(200), waiting - account(bench).open)
                order = (long, short) if turn % 2 else (short, long)
                costs = dict(zip(map(id, order), take_turns(*order), strict=True))
                # The first warms up what a long queue has cooled down.
                turns += [(costs[id(long)], costs[id(short)])] if turn else []
            row = {"queued": float(length)}
            for name in ("worker_us", "redis_us"):
                row[name] = statistics.median(mine[name] for mine, _ in turns)
                row[f"short_{name}"] = statistics.median(beside[name] for _, beside in turns)
                row[name.replace("us", "ratio")] = statistics.median(
                    mine[name] / beside[name] for mine, beside in turns
                )
            yield {name: round(value, 3) for name, value in row.items()} | memory(long)


@contextmanager
def idle_stack() -> Iterator[Stack]:
    """A model that costs nothing, and its worker, asleep."""
    with stack("nothing", "--precision", "fp32", write=write_nothing) as bench:
        worker = psutil.Process(bench.process.pid)
        worker.suspend()
        try:
            yield bench
        finally:
            worker.resume()


def take_turns(*benches: Stack) -> list[dict[str, float]]:
    """Let sleeping workers do a portion of what waits, one after the other; gives what a job took of each."""
    before = [(spent(bench), account(bench).done) for bench in benches]
    for bench in benches:
        worker, enough, until = psutil.Process(bench.process.pid), account(bench).done + PORTION, time.monotonic() + 60
        worker.resume()
        while account(bench).done < enough:
            if time.monotonic() > until:
                raise RuntimeError("the worker does nothing")
            time.sleep(0.005)
        worker.suspend()
    # What has ended is thrown away only now.
    time.sleep(RESULT_TTL_S + 1)
    return [
        spent(bench).since(was, account(bench).done - done) for bench, (was, done) in zip(benches, before, strict=True)
    ]


def account(bench: Stack) -> Accounts:
    """What became of all images so far."""
    return run(bench.redis, calls.accounts()).get(bench.model, Accounts())


def memory(bench: Stack) -> dict[str, float]:
    """Read the memory of all three, in MiB; what Redis uses, not what it once reserved."""
    return {
        "worker_mb": mb(psutil.Process(bench.process.pid).memory_info().rss),
        "client_mb": mb(psutil.Process().memory_info().rss),
        "redis_mb": mb(bench.redis.info("memory")["used_memory"]),
    }


def fill(bench: Stack, image: bytes, number: int) -> None:
    """Put so many more jobs of one image into the bulk lane."""
    settings = bench.settings.model_copy(update={"result_ttl_s": RESULT_TTL_S})
    request = build_request("classification", model=bench.model, images=[InlineImage(data=image)])
    for start in range(0, number, AT_ONCE):
        wanted: list[Any] = [
            calls.submit(
                request, job=uuid.uuid4().hex, lane=Lane.BULK, client="growth", settings=settings, payloads={},
                wait_for_worker=True,
            )
            for _ in range(min(AT_ONCE, number - start))
        ]  # fmt: skip
        run_all(bench.redis, wanted)


def by_run(lengths: Sequence[int], model: str) -> Iterator[dict[str, float]]:
    """Give memory, and what an image takes, of folder runs of each length, one after the other on one worker."""
    with short_lived(), stack(model, "--precision", "fp32", write=write_networks) as bench:
        # The first run is there to warm everything up.
        encoded, warm = pictures(model, 64), False
        for length in (min(lengths), *lengths):
            folder = bench.root / "run"
            shutil.rmtree(folder, ignore_errors=True)
            write_links(folder, encoded, length)
            before, started = spent(bench, children=True), time.perf_counter()
            report, peak_mb, redis_mb = folder_run(bench, folder)
            found = {
                "images": length, "images_per_s": report["images_per_s"],
                "wall_us": round(1e6 * (time.perf_counter() - started) / length, 1),
                **spent(bench, children=True).since(before, length),
                "worker_mb": round(bench.rss_mb(), 1), "client_mb": peak_mb, "redis_mb": redis_mb,
            }  # fmt: skip
            if warm:
                yield found
            warm = True


def write_links(folder: Path, encoded: Sequence[bytes], number: int) -> None:
    """Write a folder of so many pictures: each once, and hard links to those."""
    folder.mkdir()
    for index, data in enumerate(encoded[:number]):
        (folder / f"{index:06}.png").write_bytes(data)
    for index in range(len(encoded), number):
        (folder / f"{index:06}.png").hardlink_to(folder / f"{index % len(encoded):06}.png")


def folder_run(bench: Stack, folder: Path) -> tuple[dict[str, Any], float, float]:
    """Run a folder; gives the report, and the most memory of the client and of Redis meanwhile, in MiB."""
    out = bench.root.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    process = start_run(bench, folder, out, "--json")
    peak = redis_peak = 0.0
    with connect(bench.settings.redis_url or "") as redis:
        while process.poll() is None:
            try:
                peak = max(peak, mb(psutil.Process(process.pid).memory_info().rss))
            except psutil.NoSuchProcess:
                break
            redis_peak = max(redis_peak, mb(redis.info("memory")["used_memory"]))
            time.sleep(0.1)
    written, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the folder run ended with status {process.returncode}")
    return json.loads(written), peak, redis_peak


@contextmanager
def short_lived() -> Iterator[None]:
    """Have workers and clients that are started meanwhile keep results for a moment only."""
    name = "VISIONPIPE_RESULT_TTL_S"
    before = os.environ.get(name)
    os.environ[name] = str(RESULT_TTL_S)
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def growth_of(rows: Sequence[dict[str, float]], length: str, what: str) -> tuple[float, float]:
    """Give a figure at the first length that is steady, and at the last."""
    steady = [row for row in rows if row[length] >= STEADY_FROM]
    if len(steady) < 2:
        steady = list(rows)
    return steady[0][what], steady[-1][what]


def is_flat(first: float, last: float, *, unit: str) -> bool:
    """Whether what should not grow has not: memory in MiB by so much, times by such a factor or a few microseconds."""
    if unit == "mb":
        return last - first <= FLAT_MB
    return last <= FLAT_RATIO * first or (unit == "us" and last - first <= FLAT_US)


def verdicts(found: Mapping[str, list[dict[str, float]]]) -> list[list[object]]:
    """Say of everything that should be flat whether it is."""
    wanted = (
        ("queue", "queued", ("worker_mb", "client_mb", "p50_ms", "client_us", "worker_us", "redis_us")),
        ("drain", "queued", ("worker_mb", "worker_ratio", "redis_ratio")),
        ("run", "images", ("worker_mb", "client_mb", "redis_mb", "client_us", "worker_us", "redis_us")),
    )
    rows: list[list[object]] = []
    for part, length, names in wanted:
        for name in names:
            first, last = growth_of(found[part], length, name)
            unit = name.rpartition("_")[2]
            if unit == "ratio":
                # Each was held against a short queue already.
                first, last = 1.0, max(row[name] for row in found[part])
            rows.append([part, name, first, last, "yes" if is_flat(first, last, unit=unit) else "NO"])
    return rows


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("batch", "queue", "drain", "run"))
    parser.add_argument("-o", "--output", type=Path, default=Path("bench-out"))
    parser.add_argument("--model", default="resnet18-generated", help="whose memory is held against the batch")
    arguments = parser.parse_args()
    most = (lambda lengths: [n for n in lengths if n <= lengths[-1] // QUICK]) if arguments.quick else list
    batches = BATCHES[:4] if arguments.quick else BATCHES
    parts: dict[str, Callable[[], Iterator[dict[str, float]]]] = {
        "batch": lambda: by_batch(batches, arguments.model),
        "queue": lambda: by_queue(most(QUEUES)),
        "drain": lambda: by_drain([5 * SHORT] if arguments.quick else [n for n in QUEUES if n >= SHORT]),
        "run": lambda: by_run(most(RUNS), "lenet-digits"),
    }
    earlier = json.loads((arguments.output / "growth.json").read_text()) if arguments.only else {}
    found = {
        name: list(measure()) if arguments.only in (None, name) else earlier[name] for name, measure in parts.items()
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    about = {"machine": platform.machine(), "cores": psutil.cpu_count(), "date": time.strftime("%Y-%m-%d")}
    document: dict[str, Any] = {"about": {**about, "batch_model": arguments.model, "quick": arguments.quick}, **found}
    (arguments.output / "growth.json").write_text(json.dumps(document, indent=1) + "\n")
    draw(document, arguments.output / "growth.png")
    for name, rows in found.items():
        table(f"By {name}", list(rows[0]), [list(row.values()) for row in rows])
    table("What should not grow", ["with", "what", "at first", "at last", "flat"], verdicts(found))


if __name__ == "__main__":
    main()
