"""Photos of an orange class, and how tests give them to a service and look at what they do."""

from __future__ import annotations

import base64
from typing import Any

import httpx

from model.photos import PhotoPrior
from tests.service.tiny import png

PRIOR = PhotoPrior(described=2.0, undescribed=1.0, fade=3.0)
COLOURS = ((250, 120, 10), (240, 130, 30), (255, 110, 0), (235, 140, 20))
PHOTOS = [png(colour) for colour in COLOURS]
ORANGE: dict[str, Any] = {"id": "orange", "name": "Orange", "attributes": [0.9, 0.5, 0.05]}
UNDESCRIBED: dict[str, Any] = {"id": "orange", "name": "Orange"}


def in_json(photos: list[bytes]) -> list[dict[str, str]]:
    return [{"data": base64.b64encode(data).decode()} for data in photos]


async def add(client: httpx.AsyncClient, *photos: bytes, class_id: str = "orange") -> httpx.Response:
    files = [("images", (f"{i}.png", data, "image/png")) for i, data in enumerate(photos)]
    return await client.post(f"/classes/{class_id}/examples", files=files)


async def probabilities(client: httpx.AsyncClient) -> dict[str, float]:
    """Of every class for one orange image."""
    response = await client.post("/classify?top_k=100", content=png((245, 125, 15)))
    return {p["class_id"]: p["probability"] for p in response.json()["results"][0]["predictions"]}


async def rows(client: httpx.AsyncClient) -> dict[str, float]:
    """What depends on every bit of the row, without the order of registration."""
    return dict(sorted((await probabilities(client)).items()))
