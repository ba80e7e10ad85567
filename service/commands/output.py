"""How commands talk: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str, typer.Option(help="Address of the service.")]
Key = Annotated[str | None, typer.Option(envvar="D3GZSL_KEY", help="Access key, where the service needs one.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def as_document(answer: BaseModel) -> dict[str, Any]:
    """An answer of a service as JSON: what the service said, and nothing that it left out."""
    return answer.model_dump(mode="json", exclude_unset=True)


def print_json(value: Any) -> None:
    """Print a JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # names are text, not rich's markup
    Console().print(table)


def print_line(text: str) -> None:
    """Print a line on standard output."""
    sys.stdout.write(text + "\n")
