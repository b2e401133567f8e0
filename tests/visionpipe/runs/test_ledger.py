"""Whatever happens to a run, its ledger holds every input exactly once."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from visionpipe.errors import LedgerError, RunConflictError
from visionpipe.runs.ledger import LEDGER_NAME, MAX_TRIES, Ledger, discard
from visionpipe.runs.rows import Counts, InputState, Outcome
from visionpipe.runs.scan import Found
from visionpipe.runs.spec import RunSpec, full_options

SPEC = RunSpec(Path("/images"), "classification", "m", full_options("classification", {}))


def files(count: int, *, mtime_ns: int = 1) -> list[Found]:
    return [Found(b"%04d.png" % index, 10, mtime_ns) for index in range(count)]


def answer(position: int) -> Outcome:
    return Outcome(position, json.dumps({"result": {"classes": []}}))


def fault(position: int, *, retryable: bool) -> Outcome:
    return Outcome(position, '{"error":{}}', "worker_lost", "gone", retryable)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path, SPEC) as ledger:
        yield ledger


def settle(ledger, chunk, outcomes):
    return ledger.settle(chunk, outcomes, model=None, worked_s=1.0)


def test_a_chunk_goes_from_pending_to_done(ledger):
    ledger.add([*files(5), Found(b"notes.txt", skip="other_type", message="no")])
    chunk = ledger.cut(3, 1 << 20)
    assert [image.path for image in chunk.inputs] == [b"0000.png", b"0001.png", b"0002.png"]
    assert ledger.counts() == Counts(pending=2, submitted=3, skipped=1)
    assert settle(ledger, chunk, [answer(0), answer(1), fault(2, retryable=False)]) == (2, 1, 0)
    assert ledger.counts() == Counts(pending=2, done=2, failed=1, skipped=1)
    assert ledger.open_chunks() == []


def test_a_chunk_is_bounded_in_bytes_but_never_empty(ledger):
    ledger.add(files(5))
    assert len(ledger.cut(5, 25).inputs) == 2
    assert len(ledger.cut(5, 1).inputs) == 1


def test_open_chunks_keep_job_and_order_when_the_ledger_is_opened_again(tmp_path):
    with Ledger(tmp_path, SPEC) as ledger:
        ledger.add(files(4))
        chunks = [ledger.cut(2, 1 << 20), ledger.cut(2, 1 << 20)]
    with Ledger(tmp_path, SPEC) as ledger:
        assert ledger.resumed
        assert ledger.open_chunks() == chunks


def test_two_runs_never_share_a_job_id(tmp_path):
    jobs = []
    for _ in range(2):
        with Ledger(tmp_path, SPEC) as ledger:
            ledger.add(files(1))
            jobs.append(ledger.cut(1, 1 << 20).job)
        discard(tmp_path)
    assert jobs[0] != jobs[1]


def test_a_retryable_error_is_tried_a_bounded_number_of_times(ledger):
    ledger.add(files(1))
    tries = 0
    while (chunk := ledger.cut(1, 1 << 20)) is not None:
        tries += 1
        settle(ledger, chunk, [fault(0, retryable=True)])
    assert tries == MAX_TRIES
    assert ledger.counts() == Counts(failed=1)


def test_a_released_chunk_costs_no_try(ledger):
    ledger.add(files(1))
    for _ in range(3 * MAX_TRIES):
        assert ledger.release(ledger.cut(1, 1 << 20)) == 1
    assert ledger.counts() == Counts(pending=1)


def test_what_a_shortened_chunk_leaves_out_is_cut_again(ledger):
    ledger.add(files(5))
    chunk = ledger.shorten(ledger.cut(5, 1 << 20), 2)
    assert [image.path for image in chunk.inputs] == [b"0000.png", b"0001.png"]
    assert ledger.open_chunks() == [chunk]
    assert ledger.counts() == Counts(pending=3, submitted=2)
    assert [image.path for image in ledger.cut(5, 1 << 20).inputs] == [b"0002.png", b"0003.png", b"0004.png"]


def test_positions_close_ranks_behind_a_refused_input(ledger):
    ledger.add(files(4))
    chunk = ledger.refuse(ledger.cut(4, 1 << 20), [fault(1, retryable=False)])
    assert [image.path for image in chunk.inputs] == [b"0000.png", b"0002.png", b"0003.png"]
    settle(
        ledger,
        chunk,
        [Outcome(0, '{"result":"zero"}'), Outcome(1, '{"result":"two"}'), Outcome(2, '{"result":"three"}')],
    )
    assert {row.path: row.answer for row in ledger.rows()} == {
        b"0000.png": '{"result":"zero"}',
        b"0001.png": '{"error":{}}',
        b"0002.png": '{"result":"two"}',
        b"0003.png": '{"result":"three"}',
    }


def test_a_changed_file_is_done_again_and_an_unchanged_one_is_not(ledger):
    ledger.add(files(2))
    settle(ledger, ledger.cut(2, 1 << 20), [answer(0), answer(1)])
    ledger.add([Found(b"0000.png", 10, 1), Found(b"0001.png", 10, 2)])
    assert ledger.counts() == Counts(pending=1, done=1)
    assert ledger.cut(2, 1 << 20).inputs[0].path == b"0001.png"


def test_a_late_answer_does_not_touch_an_input_that_changed_meanwhile(ledger):
    ledger.add(files(2))
    chunk = ledger.cut(2, 1 << 20)
    ledger.add(files(1, mtime_ns=2))
    assert settle(ledger, chunk, [answer(0), answer(1)]) == (1, 0, 0)
    assert ledger.counts() == Counts(pending=1, done=1)


def test_failed_inputs_get_another_try_on_demand_but_not_dangling_links(ledger):
    ledger.add([*files(1), Found(b"gone.png", code="image_not_found", message="no such file")])
    settle(ledger, ledger.cut(1, 1 << 20), [fault(0, retryable=False)])
    assert ledger.counts() == Counts(failed=2)
    assert ledger.retry_failed() == 1
    assert ledger.counts() == Counts(pending=1, failed=1)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (RunSpec(Path("/images"), "classification", "n", SPEC.options), "model"),
        (RunSpec(Path("/other"), "classification", "m", SPEC.options), "folder"),
        (RunSpec(Path("/images"), "classification", "m", full_options("classification", {"top_k": 3})), "options"),
        (RunSpec(Path("/images"), "classification", "m", SPEC.options, ("*.gif",)), "pattern"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_run_is_refused_with_the_difference_and_the_way_out(tmp_path, other, named):
    Ledger(tmp_path, SPEC).__exit__()
    with pytest.raises(RunConflictError, match="--fresh") as caught:
        Ledger(tmp_path, other)
    assert caught.value.details["differing"] == [named]


def test_a_ledger_that_is_none_is_a_typed_error(tmp_path):
    (tmp_path / LEDGER_NAME).write_bytes(b"this is not a database" * 100)
    with pytest.raises(LedgerError, match="--fresh"):
        Ledger(tmp_path, SPEC)


def test_discarding_leaves_other_files_alone(tmp_path):
    Ledger(tmp_path, SPEC).__exit__()
    (tmp_path / "results.csv").write_text("old")
    (tmp_path / "thesis.tex").write_text("precious")
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_ledger_is_flat_in_memory_and_readable_by_any_tool(ledger):
    ledger.add(files(3))
    rows = sqlite3.connect(ledger.path)
    assert rows.execute("SELECT COUNT(*) FROM inputs WHERE state = 'pending'").fetchone() == (3,)
    rows.close()


class AnyOrder(RuleBasedStateMachine):
    """Scans, cuts, outcomes, losses and restarts in any order."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self.folder.name), SPEC)
        self.known: set[bytes] = set()
        self.executed: dict[bytes, int] = {}

    @initialize(count=st.integers(0, 12))
    def scan(self, count):
        self.see(files(count))

    @rule(first=st.integers(0, 10), count=st.integers(0, 6), mtime_ns=st.integers(1, 2))
    def scan_again(self, first, count, mtime_ns):
        self.see(files(20, mtime_ns=mtime_ns)[first : first + count])

    def see(self, found):
        self.ledger.add(found)
        self.known |= {entry.path for entry in found}

    @rule(size=st.integers(1, 5))
    def cut(self, size):
        self.ledger.cut(size, 1 << 20)

    @precondition(lambda self: self.ledger.open_chunks())
    @rule(data=st.data())
    def settle(self, data):
        chunk = data.draw(st.sampled_from(self.ledger.open_chunks()))
        kinds = [data.draw(st.sampled_from(["answer", "fault", "retry", "none"])) for _ in chunk.inputs]
        made = {
            "answer": answer,
            "fault": lambda i: fault(i, retryable=False),
            "retry": lambda i: fault(i, retryable=True),
        }
        settle(self.ledger, chunk, [made[kind](index) for index, kind in enumerate(kinds) if kind != "none"])

    @precondition(lambda self: self.ledger.open_chunks())
    @rule(data=st.data())
    def lose(self, data):
        self.ledger.release(data.draw(st.sampled_from(self.ledger.open_chunks())))

    @rule()
    def die_and_come_back(self):
        self.ledger.__exit__()
        self.ledger = Ledger(Path(self.folder.name), SPEC)

    @invariant()
    def every_input_is_there_once(self):
        rows = list(self.ledger.rows())
        assert [row.path for row in rows] == sorted(self.known)
        assert self.ledger.counts().found == len(self.known)
        for row in rows:
            assert (row.answer is not None) == (row.state in (InputState.DONE, InputState.FAILED))

    @invariant()
    def what_is_submitted_is_in_an_open_chunk(self):
        flying = [image.path for chunk in self.ledger.open_chunks() for image in chunk.inputs]
        assert sorted(flying) == [row.path for row in self.ledger.rows() if row.state is InputState.SUBMITTED]

    def teardown(self):
        self.ledger.__exit__()
        self.folder.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_ledger_closed_under_a_thread_that_reads_and_writes_ends_that_thread_with_an_error(tmp_path):
    told = []

    def work(ledger):
        try:
            while True:
                assert len(list(ledger.rows())) >= 500
                ledger.add(Found(b"%04d.jpg" % index, 1, 1) for index in range(500))
        except LedgerError as error:
            told.append(error.code)

    for index in range(20):
        (tmp_path / str(index)).mkdir()
        with Ledger(tmp_path / str(index), RunSpec(tmp_path, "classification", "m")) as ledger:
            ledger.add(Found(b"%04d.png" % index, 1, 1) for index in range(500))
            thread = threading.Thread(target=work, args=(ledger,))
            thread.start()
            time.sleep(0.002 * index)
        thread.join()
    assert told == ["ledger_failed"] * 20
