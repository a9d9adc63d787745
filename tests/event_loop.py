"""Somebody's actions on a widget whose work goes on in an event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor


def drive(person: Coroutine) -> None:
    """Run somebody's actions in a thread: once Playwright has been used, its loop occupies the main one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, person).result()


async def until(condition: Callable[[], object]) -> None:
    """Give the loop time until something is so; the test fails if that takes minutes."""
    for _ in range(60_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError
