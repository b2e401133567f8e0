"""When a model gets one more worker, from what those it has say they used."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from visionpipe import growing
from visionpipe.cli.app import app
from visionpipe.growing import WHILE_S, WINDOW_S, Growth
from visionpipe.machine import Room
from visionpipe.queue import calls, connect, run
from visionpipe.schemas.jobs import Lane, Usage, WorkerRecord
from visionpipe.settings import Settings
from visionpipe.stack import Stack, ensure_stack
from visionpipe.supervisor import Slot, Supervisor, WorkerSpec

from .test_supervisor import Script, pid_of

TINY = {"decode_s": 0.5, "other_s": 0.25, "forward_s": 0.4, "device_s": 0.65}
"""Seconds of a core that a tiny network's worker uses in a second."""
GB = 10**9
START = 100_000.0


def record(worker: str = "w", *, at: float = 0.0, rate: float = 3000, used: dict[str, float] | None = None,
           device: str = "cpu", cores: float = 2, host: str = "here", **more: object) -> WorkerRecord:  # fmt: skip
    """What a worker says that has done the same for ``at`` seconds."""
    spent = {"decode_s": 0.0, "forward_s": 0.0, "postprocess_s": 0.0, "other_s": 0.0, "device_s": 0.0}
    spent |= {name: at * share for name, share in (TINY if used is None else used).items()}
    usage = Usage(host=host, device=device, cores=cores, images=round(at * rate), **spent)
    told = {
        "model": "m",
        "precision": "fp32",
        "held_items": 64,
        "rss_bytes": GB,
        "usage": usage,
        "beat_at": START + at,
        "digest": "0" * 12,
        **more,
    }
    return WorkerRecord(
        worker=worker, tasks=["classification"], device=device,
        lanes=list(Lane), max_batch=8, version="0", started_at=0, **told,
    )  # fmt: skip


Make = Callable[[float], list[WorkerRecord]]
SERVED = f"m@{'0' * 12}"


def watch(
    growth: Growth, make: Make, *, node: str = "w", since: int = 0, seconds: float = WINDOW_S, room: Room | None = None
) -> list[WorkerSpec]:
    """Let it see what workers say, every second, and ask it for more of those of one node; gives what it wants."""
    specs = {worker: WorkerSpec("m", max_batch=4, precision="auto") for worker in node}
    wanted = []
    for second in range(since, since + int(seconds) + 1):
        growth.observe(make(second))
        wanted += [spec for spec in [growth.one_more(specs, room or Room(), second)] if spec is not None]
    return wanted


def test_a_model_whose_interpreter_is_the_limit_gets_one_more_worker_of_the_version_it_has():
    wanted = watch(Growth(), lambda at: [record(at=at, precision="bf16")], room=Room(10 * GB, 1.0))
    assert wanted == [WorkerSpec(SERVED, max_batch=4, precision="bf16")]


def test_nothing_is_wanted_before_workers_were_watched_long_enough():
    growth = Growth()
    assert not watch(growth, lambda at: [record(at=at)], seconds=WINDOW_S - 1)
    assert watch(growth, lambda at: [record(at=at)], since=int(WINDOW_S), seconds=0)


@pytest.mark.parametrize(
    "said",
    [
        {"used": {"forward_s": 1.6, "decode_s": 0.2, "device_s": 0.95}},
        {"used": {**TINY, "device_s": 0.85}},
        {"used": {"decode_s": 0.3, "other_s": 0.1, "device_s": 0.1}},
        {"used": {**TINY, "decode_s": 1.2}},
        {"cores": 1},
        {"cores": 1.9},
        {"device": "cuda:0", "cores": 16},
        {"usage": None},
        {"code": "compiling"},
        {"state": "draining"},
        {"rss_bytes": 6 * GB},
    ],
    ids=[
        "network",
        "device",
        "idle",
        "cores",
        "one core",
        "not two cores",
        "GPU",
        "unknown",
        "compiling",
        "draining",
        "memory",
    ],
)
def test_a_model_with_another_limit_gets_none(said: dict[str, object]):
    room = Room(10 * GB, 1.0)
    assert not watch(Growth(), lambda at: [record(at=at, **said)], room=room, seconds=30)  # type: ignore[arg-type]


def test_a_worker_on_a_port_of_its_own_gets_no_company():
    growth = Growth()
    for second in range(20):
        growth.observe([record(at=second)])
        assert growth.one_more({"w": WorkerSpec("m", http_port=9000)}, Room(), second) is None


def test_a_full_machine_gets_no_more_workers_whoever_fills_it():
    assert not watch(Growth(), lambda at: [record(at=at)], room=Room(idle_cores=0.05), seconds=30)


def test_a_worker_that_was_without_work_meanwhile_is_watched_anew():
    growth = Growth()
    # It says nothing while it has nothing to do.
    growth.observe([record(at=1, held_items=0)])
    assert not watch(growth, lambda at: [record(at=at)], since=5, seconds=WINDOW_S - 1)
    assert watch(growth, lambda at: [record(at=at)], since=5 + int(WINDOW_S), seconds=0)


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_clock_that_was_set_is_no_time_that_was_watched(jump: float):
    def moved(at: float) -> list[WorkerRecord]:
        return [record(at=at, beat_at=START + at + jump)]

    growth = Growth()
    watch(growth, lambda at: [record(at=at)], seconds=4)
    assert not watch(growth, moved, since=5, seconds=WINDOW_S - 1)
    assert watch(growth, moved, since=5 + int(WINDOW_S), seconds=0)


def test_a_gpu_is_shared_by_as_many_workers_of_any_model_as_were_told_so():
    def gpu(*workers: str) -> Make:
        return lambda at: [record(worker, at=at, device="cuda:0", cores=16) for worker in workers]

    growth = Growth(gpu_workers=2)
    assert not watch(growth, gpu("w", "other"))
    assert watch(growth, gpu("w"), since=20)
    assert not watch(growth, gpu("w", "v"), node="wv", since=40, seconds=30)


def test_what_else_goes_on_on_the_machine_counts_and_on_other_machines_does_not():
    busy = {"forward_s": 1.0, "device_s": 0.9}

    def beside(host: str, **said: object) -> list[WorkerSpec]:
        return watch(Growth(), lambda at: [record(at=at), record("other", at=at, host=host, **said)])  # type: ignore[arg-type]

    assert not beside("here", used=busy)
    assert not beside("here", used={}, code="compiling")
    assert beside("here", used={})
    assert beside("there", used=busy)


def test_what_a_neighbour_did_long_ago_does_not_count():
    def beside(at: float) -> list[WorkerRecord]:
        # Since ten minutes ago it did nothing, and now computes; the average of all would show little of it.
        return [record(at=at), record("other", at=at, used={"forward_s": 1.4 * max(0, at - 600) / at, "device_s": 0.1})]

    growth = Growth()
    watch(growth, lambda at: [record("other", at=at, used={})], seconds=600)
    assert not watch(growth, beside, since=601, seconds=20)


def test_a_model_grows_for_as_long_as_that_brings_something():
    def crew(names: str, rate: float) -> Make:
        return lambda at: [record(worker, at=at, cores=8, rate=rate) for worker in names]

    growth = Growth()
    assert watch(growth, crew("w", 3000))
    assert watch(growth, crew("wv", 2500), node="wv", since=20)
    # Three do 5,100 a second where two did 5,000.
    assert not watch(growth, crew("wvu", 1700), node="wvu", since=40)
    assert not watch(growth, crew("wvu", 3000), node="wvu", since=60)
    # Later there may be other work.
    assert watch(growth, crew("wvu", 3000), node="wvu", since=60 + int(WHILE_S))


def test_what_the_last_worker_brought_is_seen_while_there_is_no_room_for_another():
    def crew(names: str, code: str = "eager") -> Make:
        return lambda at: [record(w, at=at, cores=8, rate=3000 / len(names), code=code) for w in names]

    growth = Growth()
    assert watch(growth, crew("w"))
    assert not watch(growth, crew("wv", "compiling"), node="wv", since=20, seconds=70)
    assert not watch(growth, crew("wv"), node="wv", since=91, seconds=60)
    assert watch(growth, crew("wv"), node="wv", since=20 + int(WHILE_S), seconds=20)


def test_little_work_is_no_reason_to_grow_no_further():
    def idly(at: float) -> list[WorkerRecord]:
        return [record(worker, at=at, cores=8, rate=100, used={"decode_s": 0.1}) for worker in "wv"]

    growth = Growth()
    assert watch(growth, lambda at: [record(at=at, cores=8)])
    assert not watch(growth, idly, node="wv", since=20)
    assert watch(
        growth, lambda at: [record(w, at=at, cores=8, rate=2500) for w in "wv"], node="wv", since=50, seconds=20
    )


def test_other_work_is_no_measure_of_what_one_more_worker_brought():
    growth = Growth()
    assert watch(growth, lambda at: [record(at=at, cores=8)])
    idle = lambda at: [record(worker, at=at, held_items=0) for worker in "wv"]  # noqa: E731
    assert not watch(growth, idle, node="wv", since=20, seconds=3600)
    large = lambda at: [record(worker, at=at, cores=8, rate=40) for worker in "wv"]  # noqa: E731
    assert watch(growth, large, node="wv", since=3700)


def test_what_is_known_of_a_model_outlives_its_workers():
    growth = Growth()
    watch(growth, lambda at: [record(at=at), record("other", at=at + 2, host="there")], seconds=4)
    growth.give_up(SERVED, now=4)
    # The one that was heard of last has gone.
    assert not watch(growth, lambda at: [record(at=at)], since=5, seconds=60)


def test_a_model_whose_worker_was_replaced_meanwhile_is_not_held_against_what_it_did_before():
    def pair(names: str, rate: float) -> Make:
        return lambda at: [record(worker, at=at, cores=8, rate=rate) for worker in names]

    growth = Growth()
    assert watch(growth, pair("w", 3000))
    assert not watch(
        growth, lambda at: [record(w, at=at, held_items=0) for w in "wv"], node="wv", since=20, seconds=600
    )
    assert not watch(growth, pair("v", 40), node="v", since=700, seconds=4)
    assert watch(growth, pair("xv", 40), node="xv", since=710)


def test_of_two_models_one_grows_after_the_other():
    def node(*workers: str) -> Make:
        def told(at: float) -> list[WorkerRecord]:
            return [record(worker, at=at, cores=4, model=worker[0]) for worker in workers]

        return told

    growth, room = Growth(), Room(idle_cores=1.0)
    specs = {worker: WorkerSpec(worker[0]) for worker in ("a1", "b1", "a2")}
    for second in range(int(WINDOW_S) + 1):
        growth.observe(node("a1", "b1")(second))
        wanted = growth.one_more({worker: specs[worker] for worker in ("a1", "b1")}, room, second)
    assert wanted is not None
    assert wanted.model.startswith("a@")
    # Three of them use 3.45 of four cores, which is seen when the third was watched long enough.
    for second in range(20, 60):
        growth.observe(node("a1", "b1", "a2")(second))
        assert growth.one_more(specs, room, second) is None


def test_a_model_whose_last_worker_died_gets_none_for_a_while():
    growth = Growth()
    assert watch(growth, lambda at: [record(at=at)])
    growth.give_up(SERVED, now=20)
    assert not watch(growth, lambda at: [record(at=at)], since=20, seconds=100)
    assert watch(growth, lambda at: [record(at=at)], since=20 + int(WHILE_S), seconds=20)
    # Once more, and it may be for good.
    growth.give_up(SERVED, now=1000)
    assert not watch(growth, lambda at: [record(at=at)], since=1000 + int(WHILE_S), seconds=100)
    assert watch(growth, lambda at: [record(at=at)], since=1000 + 2 * int(WHILE_S), seconds=20)


def test_a_model_without_work_that_says_so_every_minute_keeps_no_other_from_growing():
    growth = Growth(renew_s=60)

    def node(at: float) -> list[WorkerRecord]:
        # What was heard last of it stands in Redis meanwhile.
        heard = 60 * (at // 60)
        return [record(at=at, cores=4), record("idle", at=heard, cores=4, held_items=0, used={}, model="n")]

    specs = {"w": WorkerSpec("m"), "idle": WorkerSpec("n")}
    wanted = []
    for second in range(130):
        growth.observe(node(second))
        wanted += [spec for spec in [growth.one_more(specs, Room(), second)] if spec is not None]
    assert wanted
    assert {spec.model for spec in wanted} == {SERVED}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth that watches for half a second, on a machine with room."""
    monkeypatch.setattr(growing, "WINDOW_S", 0.5)
    monkeypatch.setattr("visionpipe.supervisor._GROW_S", 0.05)
    monkeypatch.setattr("visionpipe.machine.Machine.look", lambda _: Room())


def serve(supervisor: Supervisor, settings: Settings, until: Callable[[], object], *, within_s: float) -> bool:
    """Say for a supervisor's workers that they serve as fast as Python lets them; a third would need a third core."""
    begun = time.monotonic()
    with connect(str(settings.redis_url)) as redis:
        while not until() and time.monotonic() < begun + within_s:
            for process in [slot.process for slot in supervisor.slots]:
                if process is not None:
                    said = record(process.worker_id, at=time.monotonic() - begun)
                    run(redis, calls.announce(said, settings))
            time.sleep(0.02)
    return bool(until())


@pytest.mark.usefixtures("quick")
def test_a_supervisor_starts_one_more_and_does_not_replace_it(settings: Settings):
    told: list[str] = []
    spec = Script(model="m", device="cpu", media_roots={"a": Path("/a")})
    with Supervisor(str(settings.redis_url), [spec], settings, grows=True, on_event=told.append) as supervisor:
        assert serve(supervisor, settings, lambda: len(supervisor.slots) == 2, within_s=20)
        needed, extra = supervisor.slots
        assert extra.spec == replace(spec, model=SERVED, precision="fp32")
        assert (extra.is_extra, needed.is_extra) == (True, False)
        assert serve(supervisor, settings, lambda: extra.state == "ready", within_s=20)
        assert not serve(supervisor, settings, lambda: len(supervisor.slots) > 2, within_s=0.8)
        os.kill(pid_of(extra), signal.SIGKILL)
        assert serve(supervisor, settings, lambda: supervisor.slots == [needed], within_s=20)
        assert not serve(supervisor, settings, lambda: len(supervisor.slots) > 1, within_s=0.8)
    assert sum("one more worker starts" in event for event in told) == 1
    assert sum("is not started again" in event for event in told) == 1
    assert needed.restarts == 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("grows", "http_port"), [(False, 0), (True, 9000)])
def test_a_supervisor_starts_no_more_where_it_may_not(grows: bool, http_port: int, settings: Settings):
    settings = settings.model_copy(update={"http_port": http_port})
    with Supervisor(str(settings.redis_url), [Script(model="m")], settings, grows=grows) as supervisor:
        assert not serve(supervisor, settings, lambda: len(supervisor.slots) > 1, within_s=0.8)


def test_nobody_waits_for_one_more_worker_nor_counts_it(settings: Settings, tmp_path: Path):
    with Supervisor(str(settings.redis_url), [], settings, log_folder=tmp_path) as supervisor:
        supervisor._slots.open(Script(), is_extra=True)
        supervisor.wait_ready(0)
        assert Stack("", settings, supervisor).started == []
        supervisor.add(Script())
        assert supervisor.settings.cuda_workers == 1


def test_one_more_worker_that_died_leaves_its_log(settings: Settings, tmp_path: Path, becomes: Callable[..., bool]):
    told: list[str] = []
    with Supervisor(str(settings.redis_url), [], settings, log_folder=tmp_path, on_event=told.append) as supervisor:
        supervisor._slots.open(Script(source="print('no memory'); raise SystemExit(1)"), is_extra=True)
        assert becomes(lambda: told and "not started again" in told[-1], within_s=20)
        assert supervisor.slots == []
    (log,) = tmp_path.iterdir()
    assert "no memory" in told[-1]
    assert str(log) in told[-1]
    assert "no memory" in log.read_text()


@pytest.mark.usefixtures("quick")
def test_one_more_worker_ends_once_the_others_host_another_version(settings: Settings, becomes: Callable[..., bool]):
    told: list[str] = []
    url = str(settings.redis_url)
    with Supervisor(url, [Script(model="m")], settings, grows=True, on_event=told.append) as supervisor:
        supervisor._slots.open(Script(model=SERVED), is_extra=True)
        assert serve(supervisor, settings, lambda: {slot.state for slot in supervisor.slots} == {"ready"}, within_s=20)
        needed, extra = supervisor.slots
        assert not serve(supervisor, settings, lambda: extra.state != "ready", within_s=0.5)
        with connect(url) as redis:
            later = record(worker_of(needed), digest="1" * 12)
            run(redis, calls.announce(later, settings))
        assert becomes(lambda: supervisor.slots == [needed], within_s=20)
    assert sum("host another version" in event for event in told) == 1
    assert not any("not started again" in event for event in told)


def worker_of(slot: Slot) -> str:
    assert slot.process is not None
    return slot.process.worker_id


@pytest.mark.parametrize(("workers", "grows"), [(None, True), (1, False), (2, False)])
def test_a_number_of_workers_turns_growth_off(
    workers: int | None, grows: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    started: list[tuple[int, bool]] = []

    class Recorded(Supervisor):
        def __init__(self, url: str, specs: list[WorkerSpec], *more: Any, grows: bool = False, **others: Any) -> None:
            started.append((len(specs), grows))
            super().__init__(url, [], *more, grows=grows, **others)

    monkeypatch.setattr("visionpipe.stack.Supervisor", Recorded)
    monkeypatch.setattr("visionpipe.cli.up.Supervisor", Recorded)
    monkeypatch.setattr("visionpipe.cli.up._Signals", lambda: SimpleNamespace(count=1))
    with ensure_stack(["m"], settings=settings, workers=workers):
        pass
    words = [] if workers is None else ["--workers-per-model", str(workers)]
    told = CliRunner().invoke(app, ["up", "m", "--redis-url", str(settings.redis_url), *words])
    assert told.exit_code == 0, told.output
    assert started == [(workers or 1, grows)] * 2
