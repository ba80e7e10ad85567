"""Plain FastAPI and ONNX Runtime, one image at a time, which is what one writes first."""

from __future__ import annotations

import asyncio
import threading

import uvicorn
from common import PORT, Classifier, Head
from fastapi import FastAPI, Request

classifier, head = Classifier(), Head()
turn = threading.Lock()  # without it, every request's threads fight for the same cores, and it is slower still
app = FastAPI()


@app.post("/classify")
async def classify(request: Request) -> dict[str, str]:
    data = await request.body()
    return await asyncio.to_thread(answer, data)


def answer(data: bytes) -> dict[str, str]:
    image = head.read(data)[None]
    with turn:
        return {"class": classifier.classify(image)[0]}


@app.get("/ready")
def ready() -> dict[str, bool]:
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
