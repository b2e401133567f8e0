"""The soak: random load and random faults for some minutes, and the books in the end."""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import time

from tests.faults import table
from tests.faults.forge import opened_forge, wait_for
from tests.soak.book import Book
from tests.soak.clients import Crowd
from tests.soak.service import MOST_RSS_GROWTH_MB, RESULT_TTL_S, Service
from visionpipe.errors import ServiceError
from visionpipe.queue import calls, connect, run

CALM_S = (0.3, 2.5)
"""How long nothing happens between two faults."""
LASTING = ("vp:accounts:", "vp:models", "vp:lanes", "vp:workers", "vp:beats", "vp:beaten", "vp:serving:", "vp:short")
"""What stays in Redis while workers serve, however many jobs there were."""
MOST_GROWTH_BYTES = 64 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    faulthandler.enable()
    print(f"soak of {asked.minutes:g} minutes, seed {asked.seed}", flush=True)
    with opened_forge() as forge:
        service = Service(forge, random.Random(asked.seed))
        try:
            return soak(service, asked.minutes * 60, asked.seed)
        finally:
            service.close()


def soak(service: Service, seconds: float, seed: int) -> int:
    service.wait_ready()
    book = Book(connect(service.server.url))
    rehearse(service, book, seed)
    before = service.used_bytes()
    crowd = Crowd(service, book, seed)
    crowd.start()
    weather(service, book, crowd, seconds)
    crowd.stop()
    service.heal()
    healed = time.monotonic()
    settle(service, book, crowd)
    recovery_s = time.monotonic() - healed
    verdict(service, book, crowd, before, f"soak, seed {seed}, {seconds / 60:g} min", recovery_s)
    return 1 if book.wrong else 0


def rehearse(service: Service, book: Book, seed: int) -> None:
    """Do a little of everything in good weather, so that what stays anyway is there before it is measured."""
    crowd = Crowd(service, book, seed + 1, threads=2)
    crowd.start()
    calm_until = time.monotonic() + 4
    while time.monotonic() < calm_until:
        tend(service, book)
    crowd.stop()
    settle(service, book, crowd)
    expire(service)


def weather(service: Service, book: Book, crowd: Crowd, seconds: float) -> None:
    began = said = time.monotonic()
    strike_at = began
    while time.monotonic() - began < seconds and not crowd.gone:
        now = time.monotonic()
        if now >= strike_at:
            name = service.strike()
            book.faults.append(name)
            if name == "drain":
                book.drains.append(now)
            strike_at = time.monotonic() + service.chance.uniform(*CALM_S)
        tend(service, book)
        if now - said > 30:
            said = now
            print(f"{now - began:5.0f} s: {len(book.faults)} faults, {book.jobs} jobs, {dict(book.ends)}", flush=True)
        if book.wrong:
            print(*book.wrong, sep="\n", flush=True)
            break


def tend(service: Service, book: Book) -> None:
    service.tend()
    book.wrong += service.wrong
    service.wrong.clear()
    book.check_ended()
    time.sleep(0.1)


def settle(service: Service, book: Book, crowd: Crowd) -> None:
    """Wait until everybody has left and every job has ended."""

    def over() -> bool:
        tend(service, book)
        try:
            open_items = sum(books.open for books in run(service.redis, calls.accounts()).values())
        except ServiceError:
            return False
        return crowd.gone and not book.entries and open_items == 0

    try:
        wait_for("the end of everything", over, 180)
    except AssertionError as error:
        book.wrong.append(f"{error}: {len(book.entries)} jobs open, such as {list(book.entries.values())[:3]}")
        for name, books in run(service.redis, calls.accounts()).items():
            book.wrong.append(f"{name}: {books}")


def expire(service: Service) -> list[str]:
    """Wait until results have expired; gives what is still there and should not be."""
    until = time.monotonic() + RESULT_TTL_S + 30
    while True:
        service.tend()
        left = [key.decode() for key in service.redis.scan_iter("*", count=10_000)]
        # What a client that could not close leaves lives for ten minutes.
        left = [key for key in left if not key.startswith((*LASTING, "vp:reply:"))]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.2)


def verdict(service: Service, book: Book, crowd: Crowd, before: int, title: str, recovery_s: float) -> None:
    doubled = over = images = 0
    for name, probe in service.models.items():
        for number, times in probe.all_executions().items():
            allowed = book.allowed.get((name, number))
            if allowed is None:
                continue
            images += 1
            over += times - 1
            if times > allowed:
                doubled += 1
                book.wrong.append(f"{name}: {number} was executed {times} times, {allowed} allowed")
    left = expire(service)
    replies = sum(1 for _ in service.redis.scan_iter("vp:reply:*"))
    service.redis.delete("vp:none", *service.redis.keys("vp:reply:*"))
    grown = service.used_bytes() - before
    if left:
        book.wrong.append(f"left in Redis: {left[:10]} and {max(0, len(left) - 10)} more")
    if grown > MOST_GROWTH_BYTES:
        book.wrong.append(f"Redis holds {grown} bytes more than before")
    if service.grown_mb > MOST_RSS_GROWTH_MB:
        book.wrong.append(f"a worker grew by {service.grown_mb:.0f} MiB")
    ends = [book.ends[name] for name in ("done", "failed", "cancelled", "expired")]
    row = table.Row(
        title, book.jobs, sum(ends), *ends, lost=0, doubled=doubled, over=over, bound=0, recovery_s=recovery_s
    )
    print("\nfaults:", ", ".join(f"{name} {count}" for name, count in sorted(service.struck.items())))
    print(f"beside these {crowd.streams} streams and {crowd.runs} folder runs; {images} images in the models' logs")
    print(f"{book.ends['innocent']} innocent images were marked at two deaths; longest job {book.longest_s:.1f} s")
    print(f"Redis holds {grown / 1024:+.1f} KiB more in its keys, {replies} streams of replies not counted")
    print(f"largest growth of a worker {service.grown_mb:.1f} MiB")
    print(*table.lines([row]), sep="\n")
    print("\n".join(["WRONG:", *book.wrong]) if book.wrong else "the books are right", flush=True)
    table.write_json([row])


if __name__ == "__main__":
    sys.exit(main())
