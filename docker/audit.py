"""Known vulnerabilities of what is pinned: pip-audit on the files of requirements.

    python docker/audit.py requirements/service.txt ...

The exit status is 0 where none is known, 1 where some are, and 3 where the database did not answer for any package:
pip-audit itself calls that "none known".
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

NOT_AUDITED = 3


def verdict(dependencies: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Exit status and lines for what pip-audit says of each package in JSON."""
    skipped = [one for one in dependencies if "skip_reason" in one]
    if len(skipped) == len(dependencies):
        return NOT_AUDITED, ["nothing was audited: the database of vulnerabilities did not answer for any package"]
    lines = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for one in dependencies
        for found in one.get("vulns", ())
    ]
    status = int(bool(lines))
    lines += [f"not audited: {one['name']}: {one['skip_reason']}" for one in skipped]
    known = "vulnerabilities are known, listed above" if status else "no vulnerability is known"
    return status, [*lines, f"{len(dependencies) - len(skipped)} packages were audited: {known}"]


def main(files: Sequence[str]) -> int:
    """Audit files of requirements."""
    line = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
    for file in files:
        line += ["--requirement", file]
    done = subprocess.run([*line, "--format", "json"], capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        status, lines = NOT_AUDITED, [f"nothing was audited: {last}"]
    else:
        status, lines = verdict(dependencies)
    sys.stdout.write("\n".join(lines) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
