"""Who may wait: places for images from before they are decoded until they are answered, and how fast they come free."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import OverloadedError

_SURE = 0.6
"""Share of a request's time that the wait ahead of it may take: beyond that its deadline would be a matter of luck."""


class Admission:
    """A bounded number of places, refused at once where there is none or where the wait would be too long.

    Args:
        capacity: most images admitted and not yet answered.
        batch_size: of the model; a measurement of so many images weighs as much as all before it.
        clock: seconds.
    """

    def __init__(self, capacity: int, *, batch_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity, self._batch_size, self._clock = capacity, batch_size, clock
        self._since = clock()
        self.admitted = 0
        self.refused = 0
        """Images turned away since the start."""
        self.seconds_per_image = 0.0
        """Between two images that leave while others wait; 0 before the first measurement."""

    def check(self, images: int = 1, *, seconds: float | None = None) -> None:
        """Refuse what could not be answered.

        Args:
            images: how many want a place.
            seconds: that they have left.

        Raises:
            OverloadedError: not enough places are free, or not early enough; says when to come back.
        """
        wait = self.admitted * self.seconds_per_image
        if self.admitted + images > self._capacity:
            words = f"{self.admitted} images are waiting and {images} more would exceed the {self._capacity} allowed"
        # With nobody ahead it is tried all the same, since only so the measurement can become a better one.
        elif self.admitted and seconds is not None and wait + images * self.seconds_per_image > _SURE * seconds:
            words = f"{self.admitted} images are waiting, too many for an answer within {seconds:.3g} seconds"
        else:
            return
        self.refused += images
        raise OverloadedError(words, retry_after=max(1, math.ceil(wait)))

    @contextmanager
    def admit(self, images: int, *, seconds: float | None = None) -> Iterator[None]:
        """Hold places while the block runs; raises what :meth:`check` raises."""
        self.check(images, seconds=seconds)
        if not self.admitted:
            self._since = self._clock()
        self.admitted += images
        try:
            yield
        finally:
            self.admitted -= images

    def answered(self, images: int) -> None:
        """Measure: so many images have left since the last time, or since the first of them came."""
        now = self._clock()
        measured = (now - self._since) / images
        weight = images / (images + self._batch_size) if self.seconds_per_image else 1.0
        self.seconds_per_image += weight * (measured - self.seconds_per_image)
        self._since = now
