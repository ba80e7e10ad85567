"""Plain FastAPI and torch: the service that one writes in an hour. One image at a time, in torch's eager mode."""

from __future__ import annotations

import asyncio
import os
import threading

import torch
import torchvision
import uvicorn
from common import PORT, THREADS, Head
from fastapi import FastAPI, Request

torch.set_num_threads(THREADS)
network = torchvision.models.resnet101()
network.load_state_dict(torch.load(os.environ["PEER_WEIGHTS"], weights_only=True))
network.fc = torch.nn.Identity()
network.eval()
head = Head()
turn = threading.Lock()  # without it, every request's threads fight for the same cores, and it is slower still
app = FastAPI()


@app.post("/classify")
async def classify(request: Request) -> dict[str, str]:
    data = await request.body()
    return await asyncio.to_thread(answer, data)


def answer(data: bytes) -> dict[str, str]:
    image = torch.from_numpy(head.read(data))[None]
    with turn, torch.inference_mode():
        features = network(image)
    return {"class": head.best(features.numpy())[0]}


@app.get("/ready")
def ready() -> dict[str, bool]:
    return {"ready": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
