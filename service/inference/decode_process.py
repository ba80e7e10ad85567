"""A process that decodes one image after another and can be ended at any time, which no thread can.

It has a limit on its memory and on the computing time of each image, and gives way to everything else on the machine.
On its standard input come files, each behind a line of JSON that tells the length. Its answers go to its standard
output, each a line of JSON with the pixels behind it. Nothing that it says is executed or unpickled.

S: side of the network's input.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from model.errors import ImageError, ImageTooLargeError, UnreadableImageError, UnsupportedImageError
from model.images.cost import Cost
from model.images.heif import load_heif_reader
from model.preprocess import PreprocessSpec
from service.inference.decoding import Decoded, decode

log = logging.getLogger(__name__)

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from service.inference.decode_process import main
main(json.loads(sys.argv[2]))
"""
_SLACK = 64_000_000  # bytes of address space beyond the limit: the file itself, and what libraries set aside
_NICE = 10
# An arena of memory for each thread would take address space that is counted as the image's.
_ONE_OF_EACH = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
_ERRORS: Mapping[str, type[ImageError]] = {
    error.__name__: error for error in (ImageTooLargeError, UnreadableImageError, UnsupportedImageError)
}


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What one image may take.

    Attributes:
        max_bytes: of its file.
        max_pixels: width times height.
        memory: bytes.
        seconds: of computing.
    """

    max_bytes: int
    max_pixels: int
    memory: int
    seconds: float

    def check_memory(self, cost: Cost) -> None:
        """Raise ImageTooLargeError where an image would need more memory than there is for one."""
        if cost.memory is not None and cost.memory > self.memory:
            raise ImageTooLargeError(
                f"decoding the image would take about {cost.memory} bytes of memory; at most {self.memory} are allowed"
            )


class DecodeProcess:
    """The process, seen from outside; one thread at a time may use it, and any may end it.

    Args:
        spec: the bundle's preprocessing.
        limits: what one image may take.
    """

    def __init__(self, spec: PreprocessSpec, limits: DecodeLimits) -> None:
        self._limits, self._ended = limits, False
        settings = {"spec": spec.to_json(), "limits": asdict(limits)}
        hidden = ("D3GZSL_", "PYTHON")  # keys are none of its business; sys.path is told
        environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, **_ONE_OF_EACH},
            start_new_session=True,  # Ctrl-C in a terminal is for the service
        )

    @property
    def alive(self) -> bool:
        """Whether it can be used."""
        return self._process.poll() is None

    def decode(self, data: bytes, *, pixels: int) -> Decoded:
        """Decode one file.

        Args:
            data: the file.
            pixels: that it may have, where that is less than the limit.

        Raises:
            ImageError: the image cannot be read, or takes more than it may. The process may have ended by that.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps({"bytes": len(data), "pixels": pixels}).encode() + b"\n" + data)
            stdin.flush()
            head = stdout.readline()
        except (BrokenPipeError, ValueError):  # it has ended, or its pipes are closed
            head = b""
        if not head.endswith(b"\n"):
            raise self._death()
        answer = json.loads(head)
        if "error" in answer:
            raise _ERRORS[answer["error"]](answer["message"])
        raw = stdout.read(answer["bytes"])
        if len(raw) < answer["bytes"]:
            raise self._death()
        image = np.frombuffer(raw, dtype=np.float32).reshape(answer["shape"])
        return Decoded(image=image, width=answer["width"], height=answer["height"], warnings=tuple(answer["warnings"]))

    def close(self) -> None:
        """End it, whatever it does; it is gone when this returns."""
        self._ended = True
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # what it was to read next
                stream.close()

    def _death(self) -> ImageError:
        """Why it ended in the middle of an image."""
        status = self._process.wait()
        if status == -signal.SIGXCPU:
            return ImageTooLargeError(
                f"decoding the image takes more than the {self._limits.seconds:g} seconds of computing that are allowed"
            )
        if self._ended:
            return UnreadableImageError("nobody waits for the image any longer")
        log.error("a process that decodes images ended with status %d", status)
        if status == -signal.SIGKILL:
            return ImageTooLargeError(
                "the system has ended the decoding of the image, as it does where memory is short"
            )
        return UnreadableImageError("the image is damaged: the decoder of its format broke down on it")


def main(settings: Mapping[str, Any]) -> None:
    """Decode what comes on standard input until it ends; for the process itself.

    Args:
        settings: the fields `spec` and `limits`.
    """
    import resource  # not on every system

    spec, limits = PreprocessSpec.from_json(settings["spec"]), DecodeLimits(**settings["limits"])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    load_heif_reader()  # what they take is not the image's
    if (used := _address_space()) is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory + _SLACK, hard))
    while head := sys.stdin.buffer.readline():
        asked = json.loads(head)
        data = sys.stdin.buffer.read(asked["bytes"])
        if len(data) < asked["bytes"]:
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        until = math.ceil(usage.ru_utime + usage.ru_stime + limits.seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (until, hard))
        _answer(answers, data, spec, limits, asked["pixels"])
        del data


def _answer(answers: IO[bytes], data: bytes, spec: PreprocessSpec, limits: DecodeLimits, pixels: int) -> None:
    def check(cost: Cost) -> None:
        limits.check_memory(cost)
        if cost.pixels > pixels:
            raise ImageTooLargeError(
                f"the image has {cost.pixels} pixels, and those before it in the request left {pixels} of those that "
                "its images may have in all"
            )

    try:
        decoded = decode(data, spec, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels, check=check)
    except ImageError as error:
        answers.write(json.dumps({"error": type(error).__name__, "message": str(error)}).encode() + b"\n")
    else:
        head = {
            "width": decoded.width,
            "height": decoded.height,
            "warnings": decoded.warnings,
            "shape": decoded.image.shape,
            "bytes": decoded.image.nbytes,
        }
        answers.write(json.dumps(head).encode() + b"\n" + decoded.image.tobytes())
    answers.flush()


def _address_space() -> int | None:
    """Bytes of address space that this process has; None on systems that do not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
