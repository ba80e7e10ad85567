"""Several processes on one socket: started one after the first, started again when they die, drained at the end.

uvicorn's own supervisor fails the tests of this one: what cannot start is started again without a pause and without end
and does not say why, a worker that answers no ping for five seconds is killed, the end is waited for without a limit,
and workers outlive a supervisor that is killed.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from model.bundle import BundleFiles, Precision, read_manifest
from model.errors import D3GZSLError
from model.outside.threads import available_cpus
from service.errors import SettingsError
from service.inference.engine import served_graphs
from service.inference.trial import trial_begun
from service.settings import Settings, bundle_path

log = logging.getLogger(__name__)

SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""Where each process keeps its numbers, so that any of them can show those of all."""
_CPUS_PER_WORKER = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_MARGIN = 5.0  # seconds behind the grace period in which a worker ends by itself
_SETTLED = 60.0  # seconds after which a death is no longer counted as a failed start


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, on which nobody listens yet; SettingsError where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Where the socket is."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class WorkerError(D3GZSLError):
    """A worker could not start; it has said why."""


def number_of_workers(settings: Settings, *, cpus: int) -> int:
    """What the operator chose, or one per GPU, or one for every eight CPUs.

    The model uses all CPUs from one process; a second one pays only where one event loop would not keep up with them.
    """
    if settings.workers != "auto":
        return settings.workers
    return max(1, cpus // _CPUS_PER_WORKER) if settings.provider == "cpu" else 1


def worker_settings(settings: Settings, workers: int, *, cpus: int) -> Settings:
    """The settings of one of several workers: its part of the CPUs."""
    return settings.model_copy(update={"threads": settings.threads or max(1, cpus // workers)})


def run_workers(settings: Settings, listener: socket.socket) -> None:
    """Serve with as many processes as the settings say, until a signal says to stop.

    Raises:
        D3GZSLError: the service cannot start.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there are keys to be read again
    cpus = available_cpus()
    workers = number_of_workers(settings, cpus=cpus)
    if workers == 1:
        _run_server(settings, listener, lambda bundle, _: _announce(bundle, listener, 1))
        return
    with ExitStack() as stack:
        if not os.environ.get(SHARED_METRICS):
            os.environ[SHARED_METRICS] = stack.enter_context(tempfile.TemporaryDirectory(prefix="d3gzsl-metrics-"))
        Path(os.environ[SHARED_METRICS]).mkdir(parents=True, exist_ok=True)
        _Supervisor(worker_settings(settings, workers, cpus=cpus), listener, workers).run()


def _run_server(settings: Settings, listener: socket.socket, started: Callable[[str, Precision], None]) -> None:
    """Serve with this process; the bundle's networks are on trial while the libraries are loaded."""
    gc.disable()  # what a start makes stays: looking for garbage in it takes a fifth of its time; a server enables it
    with _trial_begun(settings):
        from service.server.process import run_server  # what a supervisor need not load

        run_server(settings, listener, started=started)


def _trial_begun(settings: Settings) -> AbstractContextManager[None]:
    if settings.bundle_keys:  # nothing is run of a bundle before it is known whose it is
        return nullcontext()
    try:
        path = bundle_path(settings.bundle)
        files = BundleFiles(path=path, manifest=read_manifest(path))
        return trial_begun(*served_graphs(files, settings.precision, settings.provider))
    except D3GZSLError:  # the start says so
        return nullcontext()


def _announce(bundle: str, listener: socket.socket, workers: int) -> None:
    processes = "" if workers == 1 else f" with {workers} processes"
    log.info("serving bundle %s on %s%s", bundle, url_of(listener), processes)


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    line: Connection
    since: float = field(default_factory=time.monotonic)


class _Supervisor:
    def __init__(self, settings: Settings, listener: socket.socket, number: int) -> None:
        self._settings, self._listener, self._number = settings, listener, number
        self._workers: list[_Worker] = []
        self._pause = _FIRST_PAUSE
        self._again: list[float] = []
        """Times at which a worker is to be started in the place of one that died."""

    def run(self) -> None:
        with _stop_signals() as stopped, _on_hangup(self._pass_on):
            try:
                if (bundle := self._start_first(stopped)) is None:
                    return
                for _ in range(self._number - 1):
                    self._start()
                _announce(bundle, self._listener, self._number)
                while not self._wait(stopped):
                    self._bury()
                    self._replace()
            finally:
                self._stop()

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        line, other = context.Pipe()
        process = context.Process(target=_work, args=(self._settings, self._listener, other), name="worker")
        with _held_back(signal.SIGHUP):  # the new process lets it through once it no longer dies of it
            process.start()
        other.close()
        worker = _Worker(process, line)
        self._workers.append(worker)
        return worker

    def _start_first(self, stopped: Connection) -> str | None:
        """The bundle's id once one worker answers: it makes the tables, and shows whether any can start.

        Its trunk is that of all: where each took the faster one, they might give different answers.
        """
        first = self._start()
        while stopped not in (ready := wait([stopped, first.line, first.process.sentinel])):
            if first.line in ready:
                try:
                    bundle, precision, problem = first.line.recv()
                except EOFError:
                    bundle, precision, problem = "", "", ""
                if bundle:
                    self._settings = self._settings.model_copy(update={"precision": precision})
                    return str(bundle)
                first.process.join()
                raise WorkerError(problem or f"the first worker ended with status {first.process.exitcode}")
        return None

    def _wait(self, stopped: Connection) -> bool:
        """Wait for something to do; whether that is to stop."""
        seconds = max(0.0, min(self._again) - time.monotonic()) if self._again else None
        return stopped in wait([stopped, *(worker.process.sentinel for worker in self._workers)], seconds)

    def _bury(self) -> None:
        for worker in [worker for worker in self._workers if not worker.process.is_alive()]:
            self._workers.remove(worker)
            worker.process.join()
            worker.line.close()
            _forget_metrics(worker.process.pid)
            if time.monotonic() - worker.since > _SETTLED:
                self._pause = _FIRST_PAUSE
            log.error(
                "worker %d died with status %s; another starts in %g seconds",
                worker.process.pid,
                worker.process.exitcode,
                self._pause,
            )
            self._again.append(time.monotonic() + self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _replace(self) -> None:
        due = [moment for moment in self._again if moment <= time.monotonic()]
        self._again = [moment for moment in self._again if moment not in due]
        for _ in due:
            self._start()

    def _pass_on(self) -> None:
        """Have every worker read the keys again."""
        for worker in self._workers:
            if worker.process.pid is not None and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGHUP)

    def _stop(self) -> None:
        """Let every worker finish what it has; end those that do not come to an end."""
        for worker in self._workers:
            worker.process.terminate()
        until = time.monotonic() + self._settings.grace_period + 2 * _MARGIN
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.exitcode is None:
                log.error("worker %d does not end and is killed", worker.process.pid)
                worker.process.kill()
                worker.process.join()
            worker.line.close()


@contextmanager
def _stop_signals() -> Iterator[Connection]:
    """A connection that can be read once SIGTERM or SIGINT has come."""
    reader, writer = multiprocessing.Pipe(duplex=False)

    def stop(_number: int, _frame: FrameType | None) -> None:
        writer.send(None)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with reader, writer:
            yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """While the block runs, a signal waits."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


@contextmanager
def _on_hangup(act: Callable[[], None]) -> Iterator[None]:
    """Do something at every SIGHUP."""
    before = signal.signal(signal.SIGHUP, lambda _number, _frame: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _forget_metrics(pid: int | None) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, os.environ[SHARED_METRICS])  # type: ignore[no-untyped-call]


def _work(settings: Settings, listener: socket.socket, line: Connection) -> None:
    """A worker: serve, tell when it has begun or why it cannot, and end when the supervisor is gone."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there are keys to be read again
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    os.setpgrp()  # Ctrl-C in a terminal is for the supervisor, which lets the workers drain
    threading.Thread(target=_end_with, args=(line,), name="supervisor", daemon=True).start()
    try:
        _run_server(settings, listener, lambda *about: line.send((*about, "")))
    except D3GZSLError as error:
        log.error("the worker cannot start: %s", error)
        line.send(("", "", str(error)))
        raise SystemExit(2) from None


def _end_with(line: Connection) -> None:
    try:
        line.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
