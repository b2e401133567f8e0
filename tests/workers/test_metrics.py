"""The worker's HTTP face, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from workers.metrics import serve_http


@pytest.fixture
def face(rig: Any) -> Iterator[tuple[httpx.Client, dict[str, Any]]]:
    told: dict[str, Any] = {"fault": None, "ready": False}
    server = serve_http("127.0.0.1", 0, rig.metrics, is_alive=lambda: told["fault"], is_ready=lambda: told["ready"])
    host, port = server.server_address[:2]
    with httpx.Client(base_url=f"http://{host!s}:{port}", trust_env=False) as client:
        yield client, told
    server.shutdown()
    server.server_close()


def test_health_says_what_is_wrong(face: Any) -> None:
    client, told = face
    assert (client.get("/healthz").status_code, client.get("/healthz").text) == (200, "ok")
    told["fault"] = "the device thread is dead"
    assert (client.get("/healthz").status_code, client.get("/healthz").text) == (503, "the device thread is dead")


def test_readiness_follows_the_worker(face: Any) -> None:
    client, told = face
    assert client.get("/readyz").status_code == 503
    told["ready"] = True
    assert client.get("/readyz").status_code == 200


def test_metrics_count_outcomes_stages_and_batches(rig: Any, face: Any) -> None:
    client, _ = face
    rig.metrics.follow_held(lambda: rig.window.held)
    rig.answers(rig.submit([1, 2, 255]))
    text = client.get("/metrics").text
    assert 'visionpipe_items_total{lane="interactive",model="grey",outcome="done",task="classification"} 2.0' in text
    assert 'outcome="failed",task="classification"} 1.0' in text
    assert 'visionpipe_stage_seconds_count{model="grey",stage="forward"} 2.0' in text
    assert 'visionpipe_stage_seconds_count{model="grey",stage="queue"} 3.0' in text
    assert 'visionpipe_held_items{model="grey"}' in text
    assert "visionpipe_batch_size_count" in text


def test_other_paths_point_to_the_right_ones(face: Any) -> None:
    client, _ = face
    assert client.get("/").status_code == 404
    assert "/metrics" in client.get("/").text
