"""How streams are cut into jobs."""

from __future__ import annotations

import pytest

from visionpipe.windows import FIRST_CHUNK, MOST_CHUNK, Cut, Window


def cut_after(window, answers):
    cut = Cut(window)
    cut.begin(answers[0][0])
    sizes = []
    for now_s, images in answers:
        cut.learn(images, now_s)
        sizes.append(cut.size)
    return sizes


def test_jobs_grow_where_images_are_answered_fast_and_shrink_again_where_they_are_not():
    cut = Cut(Window(jobs=4))
    cut.begin(9.0)
    assert cut.size == FIRST_CHUNK
    cut.learn(32, 10.0)
    assert cut.size == FIRST_CHUNK
    for step in range(1, 9):
        cut.learn(100, 10.0 + step * 0.1)
    assert cut.size == 50
    for step in range(1, 9):
        cut.learn(100, 11.0 + step * 0.01)
    assert cut.size == MOST_CHUNK
    for step in range(1, 9):
        cut.learn(MOST_CHUNK, 12.0 + step * 10)
    assert cut.size == FIRST_CHUNK


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_a_size_that_was_asked_for_stays(chunk):
    assert set(cut_after(Window(chunk=chunk), [(step / 1000, chunk) for step in range(20)])) == {chunk}


def test_answers_that_came_at_one_moment_say_nothing():
    assert cut_after(Window(), [(5.0, 32), (5.0, 32)]) == [FIRST_CHUNK, FIRST_CHUNK]


def test_a_slow_network_that_answers_its_first_jobs_together_gets_no_large_ones():
    cut = Cut(Window())
    cut.begin(0.0)
    for job in range(8):
        cut.learn(FIRST_CHUNK, 3.2 + job / 1000)
        assert cut.size == FIRST_CHUNK
