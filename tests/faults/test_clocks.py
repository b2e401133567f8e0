"""Workers whose clocks are a minute fast and a minute slow keep each other's jobs no worse than right ones."""

import time

from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import JobState


def test_clocks_two_minutes_apart_change_nothing(stage):
    fast, slow = stage.worker(clock_s=60), stage.worker(clock_s=-60)
    live = {record.worker: record for record in run(stage.redis, calls.workers())}
    apart_s = live[fast.worker].started_at - live[slow.worker].started_at
    assert 100 < apart_s < 140, "their clocks are wrong indeed"
    assert abs(live[fast.worker].beat_at - live[slow.worker].beat_at) < 5, "beats are told by Redis' clock"
    # Longer than a lease by the right clock, and by far not by a wrong one.
    stage.probe.each("seconds", 0.25)
    jobs = {stage.submit(*range(low, low + 8)): range(low, low + 8) for low in (1, 9)}
    # Five seconds of work: more than its time, by any clock.
    late_numbers = range(200, 220)
    late = stage.submit(*late_numbers, deadline_s=1)
    assert {stage.ended(job).record.attempts for job in jobs} == {0}
    assert stage.ended(late).record.state is JobState.EXPIRED
    in_time = stage.submit(92, deadline_s=30)
    assert stage.ended(in_time).record.state is JobState.DONE
    stage.probe.switch("block", "forward", 95)
    job = stage.submit(94, 95)
    stage.logged("block forward 95")
    holder = run(stage.redis, calls.read(job)).worker
    (fast if fast.worker == holder else slow).kill()
    died = time.monotonic()
    stage.probe.switch("block", "forward", 95, on=False)
    assert stage.ended(job).record.attempts == 1
    recovered_s = time.monotonic() - died
    jobs[job] = (94, 95)
    everything = {**jobs, late: late_numbers, in_time: (92,)}
    stage.account("clocks 60 s fast and 60 s slow", everything, faults=1, recovered_s=recovered_s)
