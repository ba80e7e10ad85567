"""The results of benchmarks/serving.py as a table and as a drawing."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

Results = dict[str, Any]
NAMES = {
    "bare": "bare loop",
    "ours": "d3gzsl",
    "default": "d3gzsl, default export",
    "fastapi": "FastAPI + torch",
    "fastapi-onnx": "FastAPI + ONNX Runtime",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "mlserver": "MLServer",
    "fp32": "float32",
    "int8": "int8",
}
WIDTH, LEFT, LINE, TOP = 820, 190, 24, 40


def table(results: Results) -> str:
    """The targets with what was measured, then the numbers of every part."""
    machines = {tuple((k, v) for k, v in part["machine"].items() if k in ("cpu", "cpus")) for part in results.values()}
    commands = dict.fromkeys(part["command"] for part in results.values())
    lines = ["# Serving", "", *(f"    {command}" for command in commands), ""]
    lines += [f"{dict(machine)['cpu']}, {dict(machine)['cpus']} cores." for machine in sorted(machines)]
    lines += ["", "| part | target | held | measured |", "|---|---|---|---|"]
    for name, part in results.items():
        for target, held in part.get("within", {}).items():
            lines.append(f"| {name} | {target} | {'yes' if held else '**no**'} | {measured(name, part, target)} |")
    for name, part in results.items():
        at = part["machine"]
        lines += ["", f"## {name}", "", f"{at['at']}, {at['threads']} threads, load {at['load']:.1f} before.", ""]
        lines += [f"- {line}" for line in details(part)]
    return "\n".join(lines) + "\n"


def measured(name: str, part: Results, target: str) -> str:
    """The number that a target is about."""
    if name == "throughput":
        ours = part["images_per_s"]["ours"]
        for peer, rate in part["images_per_s"].items():
            if target == f"faster than {peer}":
                return f"{ours:.2f} against {rate:.2f} images/s, {ours / rate:.2f} times"
        if target.startswith("a default export"):
            return f"{part['images_per_s']['default']:.2f} images/s, {part['default_to_best_peer']:.2f} times"
        return f"{part['ratio_to_bare']:.3f}"
    if name == "single":
        return f"{part['over_ms']:+.1f} ms ({part['request_ms']:.1f} ms in all)"
    if name == "poisson":
        return (
            f"{part['ratio']:.2f} ({part['ratio_to_idle']:.2f} with the times of an idle machine; "
            f"{part['ratio_to_one_batch']:.2f} of the service with one batch at a time)"
        )
    if name in ("bulk", "int8", "ray"):
        return f"{part['workers_2_to_1' if name == 'ray' else 'ratio']:.2f}"
    if name == "overload":
        return {
            "what": f"slowest answer {part['slowest_answer_s']:.2f} s of {part['allowed_s']:.2f} s allowed, "
            f"{part['let_in_but_late']} let in but late",
            "refusals": f"{part['refused_ms']['p99']:.1f} ms, {part['refused']} of them",
            "memory": f"{part['memory_growth_mb']:+.1f} MB",
            "full": f"{part['recovered_images_per_s']:.2f} against {part['normal_images_per_s']:.2f} images/s",
        }[target.split()[0]]
    key, unit = ("ready_s_over", "s") if target.startswith("ready") else ("mb_over", "MB")
    return f"{part[key]:+.2f} {unit}"


def details(part: Results, prefix: str = "") -> Iterator[str]:
    """Every number of a part, with its name."""
    for key, value in part.items():
        if key in ("machine", "command", "within", "memory_mb"):
            continue
        if isinstance(value, dict):
            yield from details(value, f"{prefix}{key} ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, one in enumerate(value, start=1):
                yield f"{prefix}{key} {number}: " + ", ".join(f"{k} {shown(v)}" for k, v in one.items())
        else:
            yield f"{prefix}{key}: {shown(value)}"


def shown(value: Any) -> str:
    """A number with four digits."""
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw(results: Results) -> str:
    """Bars of images per second of everybody and of int8; an SVG document."""
    panels = [
        (title, results[part]["images_per_s"])
        for part, title in (
            ("throughput", "Images per second, as many clients as fill batches"),
            ("int8", "Images per second of the bare loop by the trunk's arithmetic"),
        )
        if part in results
    ]
    parts, top = [], TOP
    for title, rates in panels:
        parts.append(f'<text x="12" y="{top}" font-weight="bold">{escape(title)}</text>')
        scale = (WIDTH - LEFT - 80) / max(rates.values())
        for place, (name, rate) in enumerate(sorted(rates.items(), key=lambda item: -item[1]), start=1):
            y = top + place * LINE
            colour = {"ours": "#d55e00", "default": "#d55e00", "int8": "#d55e00", "bare": "#777777"}.get(
                name, "#0072b2"
            )
            parts.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end">{escape(NAMES.get(name, name))}</text>')
            parts.append(f'<rect x="{LEFT}" y="{y - 12}" width="{rate * scale:.1f}" height="16" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + rate * scale + 6:.1f}" y="{y}">{rate:.2f}</text>')
        top += (len(rates) + 2) * LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" font-family="sans-serif" font-size="13">'
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>{"".join(parts)}</svg>\n'
    )
