"""Ctrl-C and SIGTERM: obeyed at the end of a step, or both at once and alike."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of breaking off in the middle of a step."""
    event = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():  # the second time they mean it
            raise KeyboardInterrupt
        event.set()

    with handled(handle, signal.SIGINT, signal.SIGTERM):
        yield event


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM breaks off what is inside as Ctrl-C does, so that it is tidied up."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled(handle, signal.SIGTERM):
        yield


@contextmanager
def handled(handle: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """These signals go to `handle`; outside of the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
