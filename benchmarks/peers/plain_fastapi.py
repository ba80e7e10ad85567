"""Plain FastAPI around a network: the service that one writes in an hour, one image at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import uvicorn
from common import PORT, Head
from fastapi import FastAPI, Request


def serve(head: Head, classify: Callable[[np.ndarray], list[str]]) -> None:
    """Answer until the process is ended.

    Args:
        head: reads an image file.
        classify: the best class of each input, [N, 3, S, S].
    """
    turn = threading.Lock()  # without it, every request's threads fight for the same cores, and it is slower still
    app = FastAPI()

    def answer(data: bytes) -> dict[str, str]:
        image = head.read(data)[None]
        with turn:
            return {"class": classify(image)[0]}

    @app.post("/classify")
    async def classified(request: Request) -> dict[str, str]:
        data = await request.body()
        return await asyncio.to_thread(answer, data)

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
