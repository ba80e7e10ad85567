"""A client of a running service, for the commands and for programs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import httpx

from model.errors import D3GZSLError
from model.outside.proxies import ProxiedTransport, ProxyError


class ClientError(D3GZSLError):
    """The service could not be reached, or answered with a problem.

    Attributes:
        status: of the answer; None where there was none.
        detail: what the problem says, or the message.
    """

    def __init__(self, message: str, *, status: int | None = None, detail: str | None = None) -> None:
        super().__init__(message)
        self.status, self.detail = status, detail or message


class Client:
    """Talks to a running service.

    >>> import httpx
    >>> from service import Client
    >>> def service(request: httpx.Request) -> httpx.Response:  # stands in for one that runs
    ...     return httpx.Response(200, json={"classes": [{"id": "okapi"}, {"id": "zebra"}], "next_cursor": None})
    >>> with Client("http://127.0.0.1:8000", transport=httpx.MockTransport(service)) as client:
    ...     [found["id"] for found in client.classes(kind="unseen")]
    ['okapi', 'zebra']

    Args:
        url: its address.
        key: access key, where it needs one.
        transport: carries the requests; over the network where it is None, by the proxy that the environment names
            for the address (see :func:`model.outside.proxies.proxy_for`).

    Raises:
        ClientError: the address cannot be read.
    """

    def __init__(self, url: str, *, key: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        try:
            self._http = httpx.Client(
                base_url=url, headers=headers, timeout=120, transport=transport or ProxiedTransport()
            )
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
        except ProxyError as error:
            raise ClientError(str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClientError(f"{self._http.base_url} cannot be reached: {error}") from None
        if response.is_error:
            raise _problem(response)
        try:
            return response.json() if response.content else None
        except ValueError:
            raise ClientError(f"{response.url} did not answer with JSON; is it a d3gzsl service?") from None

    def classify(self, images: Iterable[tuple[str, bytes]], **query: Any) -> dict[str, Any]:
        """The answer of POST /classify to image files.

        Args:
            images: files, each behind its id.
            query: parameters, such as `top_k` and `scope`.

        Raises:
            ClientError: see :meth:`request`.
        """
        sent = [{"id": image_id, "data": b64encode(data).decode()} for image_id, data in images]
        answer: dict[str, Any] = self.request("POST", "/classify", params=query, json={"images": sent})
        return answer

    def classes(self, **filters: str) -> Iterator[dict[str, Any]]:
        """Every class that passes the filters `kind` and `name`, page after page.

        Raises:
            ClientError: see :meth:`request`.
        """
        query = {**filters, "limit": "1000"}
        while True:
            page = self.request("GET", "/classes", params=query)
            yield from page["classes"]
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]


def _problem(response: httpx.Response) -> ClientError:
    detail = None
    try:
        problem = response.json()
        detail = str(problem["detail"])
        lines = [f"{problem['title']}: {detail}"]
        lines += [f"  {e['pointer']}: {e['detail']}" for e in problem["errors"]]
    except (ValueError, KeyError, TypeError):
        lines = [f"{response.url} answered {response.status_code} {response.reason_phrase}"]
    return ClientError("\n".join(lines), status=response.status_code, detail=detail)
