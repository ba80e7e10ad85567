"""The pages of the documentation, taken apart: blocks, inline code, tables, shell lines."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|&& |\| |\$\()\s*(?P<call>d3gzsl(?:-train)? [^\n|&)]*)", re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    """The contents of fenced blocks of one language."""
    return [body for name, body in _BLOCK.findall(text) if name == language]


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return _BLOCK.sub("", text)


def inline(text: str) -> list[str]:
    """Inline code outside fenced blocks."""
    return re.findall(r"`([^`]+)`", prose(text))


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, backticks and padding taken off."""
    lines = [line for line in prose(text).splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def calls(text: str) -> list[list[str]]:
    """Every call of the project's own commands in the page's shell blocks, as words."""
    joined = "\n".join(re.sub(r"\\\n\s*", " ", block) for block in blocks(text, "sh"))
    return [shlex.split(found["call"], comments=True) for found in _COMMAND.finditer(joined)]


def anchors(text: str) -> set[str]:
    """The names under which the page's headings can be linked to."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
