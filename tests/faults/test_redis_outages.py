"""Redis is killed, connections are cut or go silent: worker and client go on, and the accounts stay right."""

import signal
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import redis as redis_py

from tests.faults.conftest import picture, wait_for
from visionpipe.client import Client
from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import JobState


def restart(server):
    assert server.process is not None
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    time.sleep(0.5)
    server.start()
    assert server.wait_ready(20), server.log_tail()


def test_redis_killed_and_restarted_under_a_worker_and_a_waiting_client(make_stage, redis_server):
    stage = make_stage(redis_server.url)
    stage.worker()
    stage.probe.switch("block", "forward", 3)
    with Client(redis_server.url, settings=stage.settings) as client:
        job = client.submit("classification", [picture(grey) for grey in (1, 2, 3)], model="probe")
        waiting = [stage.submit(grey) for grey in (11, 12)]
        stage.logged("block forward 3")
        # The append-only file is synced once a second.
        time.sleep(1.2)
        restart(redis_server)
        stage.probe.switch("block", "forward", 3, on=False)
        results = job.results(timeout=40)
    assert [result.top.label for result in results] == ["1", "2", "3"]
    for other in waiting:
        stage.ended(other)
    stage.account("redis kill -9 and restart", {job.id: [1, 2, 3], waiting[0]: [11], waiting[1]: [12]}, faults=1)


def test_every_connection_cut_again_and_again_loses_nothing(stage):
    stage.worker()
    stop = threading.Event()

    def cut() -> None:
        with redis_py.Redis.from_url(stage.redis_url) as scissors:
            while not stop.wait(0.1):
                scissors.client_kill_filter(_type="normal", skipme=True)

    thread = threading.Thread(target=cut)
    thread.start()
    jobs = {}
    try:
        with Client(stage.redis_url, settings=stage.settings) as client:
            for grey in range(1, 31):
                submitted = client.submit("classification", picture(grey), model="probe", wait_for_worker=True)
                jobs[submitted.id] = [grey]
            for job in jobs:
                client.job(job).wait(timeout=60)
    finally:
        stop.set()
        thread.join()
    for job in jobs:
        assert stage.ended(job).record.state is JobState.DONE
    stage.account("all connections cut ten times a second", jobs, faults=2)


class Proxy:
    """A TCP port before a unix socket; ``silence`` makes every open connection a black hole, new ones work."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> int:
        for _, _, silent in self._pairs:
            silent.set()
        return len(self._pairs)

    def close(self) -> None:
        self._server.close()
        for pair in self._pairs:
            for end in pair[:2]:
                end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._path)
            silent = threading.Event()
            self._pairs.append((near, far, silent))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink, silent), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
        while True:
            try:
                data = source.recv(65536)
                if silent.is_set():
                    # Neither data nor FIN passes a black hole.
                    continue_reading = bool(data)
                    if not continue_reading:
                        return
                    continue
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return


@contextmanager
def proxy(path):
    opened = Proxy(path)
    yield opened
    opened.close()


@pytest.mark.slow
def test_a_worker_whose_connections_became_black_holes_hears_again_within_40_s(stage):
    with proxy(stage.redis_url.removeprefix("unix://")) as between:
        stage.worker(redis_url=f"redis://127.0.0.1:{between.port}")
        first = stage.submit(1)
        stage.ended(first)
        assert between.silence() >= 2
        started = time.monotonic()
        later = stage.submit(2)
        stage.ended(later, timeout_s=60)
        waited = time.monotonic() - started
        print(f"\nthe worker heard again after {waited:.1f} s")
        assert waited < 40
        stage.account("black-holed connections", {first: [1], later: [2]}, faults=1)


@pytest.mark.slow
def test_a_job_held_while_the_connections_are_black_holes_has_one_outcome(stage):
    with proxy(stage.redis_url.removeprefix("unix://")) as between:
        stage.worker(redis_url=f"redis://127.0.0.1:{between.port}")
        stage.probe.switch("block", "forward", 2)
        job = stage.submit(1, 2, 3)
        stage.logged("block forward 2")
        between.silence()
        time.sleep(2)
        stage.probe.switch("block", "forward", 2, on=False)
        # Nobody else sweeps: the worker's own lease has run out when it hears again.
        wait_for("the end", lambda: stage.state(job).ended, 60)
        run(stage.redis, calls.sweep(stage.settings))
        stage.account("black-holed while at work", {job: [1, 2, 3]}, faults=2)
