"""What is done to a student's teachers, and when: by step, or by the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.chaos.lessons import Lesson, Student

Act = Callable[[], object]


def at(acts: dict[int, Act]) -> Callable[[Student, Lesson], None]:
    """Have each act done just before the step of its number."""

    def during(student: Student, lesson: Lesson) -> None:
        act = acts.get(len(lesson.ids))
        if act is not None:
            act()

    return during


@contextmanager
def every(seconds: float, act: Act) -> Iterator[None]:
    """Do something every so many seconds, in a thread, while the block lasts."""
    over = threading.Event()
    failed: list[BaseException] = []

    def go() -> None:
        try:
            while not over.wait(seconds):
                act()
        except BaseException as error:  # noqa: BLE001  # raised in the test's thread
            failed.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]


@contextmanager
def later() -> Iterator[Callable[[float, Act], None]]:
    """Yields a function that has something done some seconds later; waits for all at the end."""
    timers: list[threading.Timer] = []

    def put_off(seconds: float, act: Act) -> None:
        timers.append(threading.Timer(seconds, act))
        timers[-1].start()

    try:
        yield put_off
    finally:
        for timer in timers:
            timer.join()
