"""Keeps this process's class table in step with what others commit to the registry."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import threading
import time
from collections.abc import Callable

from model.errors import D3GZSLError
from service.classes.registrar import Registrar
from service.classes.snapshot import Snapshot
from service.errors import NotReadyError, VersionNotReachedError
from service.registry.watch import Watch

log = logging.getLogger(__name__)

FARTHEST = 1000
"""Versions ahead of the newest one known for which a request may wait; one beyond that is no version of this log."""
_IMPATIENT = 0.05  # seconds between looks while a request waits for a version


class Waiters:
    """The tasks of one event loop that wait for a change."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def start(self) -> None:
        """Wake in the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Wake all; from any thread, and for nothing before the start and after the loop's end."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    async def wait_while(self, unchanged: Callable[[], bool]) -> None:
        """Wait to be woken, unless the change came already.

        Args:
            unchanged: asked once this task counts as waiting, so that no change is missed.
        """
        woken = asyncio.get_running_loop().create_future()
        self._waiting.add(woken)
        try:
            if unchanged():
                await woken
        finally:
            self._waiting.discard(woken)

    def _wake(self) -> None:
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)


class Follower:
    """A thread that looks into the log when the watch says so, and now and then without a word from it.

    Args:
        registrar: the class table.
        watch: closed with the follower.
        poll_interval: seconds between looks.
        max_lag: seconds without a successful look after which this process counts as behind.
    """

    def __init__(self, registrar: Registrar, watch: Watch, *, poll_interval: float, max_lag: float) -> None:
        self._registrar, self._watch = registrar, watch
        self._poll_interval, self._max_lag = poll_interval, max_lag
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._stopping, self._failing = False, False
        self._looked = time.monotonic()
        self._waiting = Waiters()
        self._looking: asyncio.Future[Snapshot] | None = None
        self._next: asyncio.Future[Snapshot] | None = None  # begins when the one that is going on has ended

    def start(self) -> None:
        """Start following, in the running event loop."""
        self._waiting.start()
        self._looked = time.monotonic()
        self._registrar.subscribe(self._waiting.wake)
        self._thread.start()

    def close(self) -> None:
        """End the thread; for a follower that was never started too."""
        self._stopping = True
        self._watch.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._watch.close()

    @property
    def lag(self) -> float:
        """Seconds since the last look at the registry that succeeded."""
        return time.monotonic() - self._looked

    def check(self) -> None:
        """Raise NotReadyError where the registry has not been read for too long."""
        if self.lag > self._max_lag:
            raise NotReadyError(
                f"the registry could not be read for {self.lag:.0f} seconds; classes may be out of date"
            )

    async def refresh(self) -> Snapshot:
        """The newest snapshot, with everything that was committed before, where the database tells so at once.

        Where the registry cannot be read, the last snapshot goes on answering.
        """
        if self._watch.changed() and self._next is None:  # a look that is going on may have read before this change
            self._next = asyncio.ensure_future(self._look_after(self._looking))
        pending = self._next or self._looking
        if pending is not None:
            return await asyncio.shield(pending)  # one look for all requests; none takes it away from the rest
        return self._registrar.snapshot

    async def _look_after(self, former: asyncio.Future[Snapshot] | None) -> Snapshot:
        if former is not None:
            await asyncio.wait([former])
        self._looking, self._next = self._next, None
        try:
            return await asyncio.get_running_loop().run_in_executor(None, self._look)
        finally:
            if self._next is None:  # else that one takes its place
                self._looking = None

    async def wait_for(self, version: int, seconds: float) -> Snapshot:
        """A snapshot of at least this version.

        Raises:
            VersionNotReachedError: there was none in time, or the version is too far ahead to be waited for.
        """
        snapshot = await self.refresh()
        if version - snapshot.registry_version > FARTHEST:
            raise VersionNotReachedError(
                f"expected version {version} of the registry, got {snapshot.registry_version}; "
                f"at most {FARTHEST} versions are waited for",
                retry_after=math.ceil(self._poll_interval),
            )
        try:
            async with asyncio.timeout(seconds):
                while snapshot.registry_version < version:
                    await self._waiting.wait_while(functools.partial(self._unchanged, snapshot))
                    snapshot = self._registrar.snapshot
        except TimeoutError:
            snapshot = self._registrar.snapshot
            if snapshot.registry_version >= version:
                return snapshot
            raise VersionNotReachedError(
                f"expected version {version} of the registry, got {snapshot.registry_version} "
                f"after waiting for {seconds:g} seconds",
                retry_after=math.ceil(self._poll_interval),
            ) from None
        return snapshot

    def _unchanged(self, snapshot: Snapshot) -> bool:
        """Have the thread look, and say whether this is still the newest."""
        self._watch.wake()
        return self._registrar.snapshot is snapshot

    def _follow(self) -> None:
        while not self._stopping:
            self._look()
            self._watch.wait(min(_IMPATIENT, self._poll_interval) if self._waiting else self._poll_interval)

    def _look(self) -> Snapshot:
        """Catch up; a registry that cannot be read is logged once, and looked at again later."""
        try:
            snapshot = self._registrar.catch_up()
        except D3GZSLError as error:
            if not self._failing:
                log.error("the registry cannot be followed: %s", error)
            self._failing = True
            return self._registrar.snapshot
        if self._failing:
            log.warning("the registry can be followed again, at version %d", snapshot.registry_version)
        self._failing, self._looked = False, time.monotonic()
        return snapshot
