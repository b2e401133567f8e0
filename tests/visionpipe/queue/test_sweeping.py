"""After an outage whoever is back first lets the others renew their leases before it sweeps."""

from __future__ import annotations

import pytest

from visionpipe.queue import calls, sweeping
from visionpipe.queue.records import Swept
from visionpipe.queue.sweeping import Sweeper
from visionpipe.settings import Settings


@pytest.mark.parametrize("sweep_s", [5.0, 30.0, 60.0])
@pytest.mark.parametrize(("silent", "gap_lease", "sweeps"), [(True, 1.7, False), (True, 0.4, True), (False, 0.4, True)])
def test_the_first_sweep_after_a_silence_waits_for_renewals(monkeypatch, sweep_s, silent, gap_lease, sweeps):
    settings = Settings(lease_s=30, renew_s=5, sweep_s=sweep_s)
    asked: list[str] = []

    def run(_redis: object, call: object) -> Swept:
        asked.append("sweep" if call.script == calls.sweep(settings).script else "look")  # type: ignore[attr-defined]
        return Swept(0, 0, 0, 0)

    monkeypatch.setattr(sweeping, "run", run)
    sweeper = Sweeper(None, settings)  # type: ignore[arg-type]
    began = sweeper.due_at
    if silent:
        sweeper.note_silence()
    now = began + gap_lease * settings.lease_s
    sweeper.sweep(now)
    assert asked == (["sweep"] if sweeps else ["look"])
    if not sweeps:
        assert sweeper.due_at == now + settings.renew_s
        sweeper.sweep(sweeper.due_at)
        assert asked == ["look", "sweep"]
