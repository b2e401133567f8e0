"""Redis does not fill with finished pixels: its memory is the same after a tenth of the jobs and after all of them."""

import io
import random
import time

import pytest
from PIL import Image

from tests.faults.forge import CALM, wait_for
from visionpipe.queue import calls, keys, run
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import Lane
from visionpipe.schemas.requests import ClassificationRequest

WINDOW = 100
"""Jobs under way at once: 20 MB of pixels."""
RESULT_TTL_S = 3
"""Records and results expire too, after a day unless told otherwise."""
MAX_GROWTH_MB = 4.0


def noise() -> bytes:
    """A PNG of 200 kB that no codec makes smaller."""
    buffer = io.BytesIO()
    Image.frombytes("L", (450, 445), random.Random(7).randbytes(450 * 445)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_jobs", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_redis_memory_is_flat_over_many_jobs_of_200_kb(stage, num_jobs):
    worker = stage.worker(VISIONPIPE_DECODE_THREADS="2", **CALM)
    pixels = noise()
    assert 200_000 <= len(pixels) <= 210_000
    settled = stage.settings.model_copy(update={"result_ttl_s": RESULT_TTL_S})
    done, used_mb, rss_mb, peak_mb, started = 0, [], [], 0.0, time.monotonic()

    def used() -> float:
        return stage.redis.info("memory")["used_memory"] / 2**20

    def finished(at_least: int) -> bool:
        nonlocal done
        done = run(stage.redis, calls.accounts())["probe"].done
        return done >= at_least

    for number in range(num_jobs):
        job = f"load-{number}"
        key = f"blob:{job}:0"
        request = ClassificationRequest(model="probe", images=[BlobImage(key=key, size_bytes=len(pixels))])
        call = calls.submit(request, job=job, lane=Lane.BULK, client="load", settings=settled, payloads={key: pixels})
        run(stage.redis, call)
        if number - done >= WINDOW:
            wait_for("the window", lambda number=number: finished(number - WINDOW // 2), 60)
            peak_mb = max(peak_mb, used())
        if number + 1 in (num_jobs // 10, num_jobs):
            wait_for("every job so far", lambda number=number: finished(number + 1), 60)
            record = stage.redis.memory_usage(keys.job(job)) + stage.redis.memory_usage(keys.items(job))
            wait_for("expiry of the records", lambda: not list(stage.redis.scan_iter("vp:job:*", count=10_000)))
            used_mb.append(used())
            rss_mb.append(worker.rss_mb())
    print(
        f"\n{num_jobs} jobs of {len(pixels)} bytes in {time.monotonic() - started:.0f} s: Redis used "
        f"{used_mb[0]:.1f} MiB after 10 %, {used_mb[1]:.1f} MiB after 100 %, {peak_mb:.1f} MiB at most; "
        f"an ended job keeps {record} bytes until it expires; the worker grew by {rss_mb[1] - rss_mb[0]:.1f} MiB"
    )
    assert rss_mb[1] - rss_mb[0] < 32
    assert used_mb[1] - used_mb[0] < MAX_GROWTH_MB
    assert peak_mb - used_mb[0] < 3 * WINDOW * len(pixels) / 2**20
    assert not list(stage.redis.scan_iter("vp:blob:*"))
    assert not list(stage.redis.scan_iter("vp:stage:*"))
