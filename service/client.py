"""A client of the service for commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import httpx

from model.errors import D3GZSLError


class ClientError(D3GZSLError):
    """The service could not be reached, or answered with a problem."""


class Client:
    """Talks to a running service.

    Args:
        url: its address.
        key: access key, where it needs one.
    """

    def __init__(self, url: str, *, key: str | None = None) -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=120)
        except (httpx.InvalidURL, ValueError) as error:
            raise ClientError(f"{url} is not an address: {error}") from None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of an answer; None where it has none.

        Raises:
            ClientError: no answer, or a problem; says which.
        """
        try:
            response = self._http.request(method, path, **arguments)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClientError(f"{self._http.base_url} cannot be reached: {error}") from None
        if response.is_error:
            raise ClientError(_problem(response))
        try:
            return response.json() if response.content else None
        except ValueError:
            raise ClientError(f"{response.url} did not answer with JSON; is it a d3gzsl service?") from None

    def classes(self, filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Every class that passes the filters, page after page."""
        query = {**filters, "limit": "1000"}
        while True:
            page = self.request("GET", "/classes", params=query)
            yield from page["classes"]
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]


def _problem(response: httpx.Response) -> str:
    try:
        problem = response.json()
        lines = [f"{problem['title']}: {problem['detail']}"]
        lines += [f"  {e['pointer']}: {e['detail']}" for e in problem["errors"]]
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered {response.status_code} {response.reason_phrase}"
    return "\n".join(lines)
