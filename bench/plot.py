"""A picture of the ratios: one bar a case, on a scale where twice as much and half as much are equally far from 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, LABEL, ROW, TOP = 860, 300, 20, 48  # pixels
LEAST, MOST = 1 / 16, 16.0  # ratios at the edges; what is beyond ends there
GOOD, BAD, NONE = "#2e7d32", "#c62828", "#607d8b"  # met, not met, without a goal


def place(ratio: float) -> float:
    """Where it stands on the scale, in pixels."""
    share = math.log(min(max(ratio, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LABEL + share * (WIDTH - LABEL - 20)


def gain(case: Mapping[str, Any]) -> float:
    """How many times better than what is beside it."""
    return float(1 / case["ratio"] if case["better"] == "less" else case["ratio"])


def drawn(cases: Sequence[Mapping[str, Any]]) -> str:
    """An SVG."""
    shown = [case for case in cases if case["ratio"]]
    height = TOP + ROW * len(shown) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LABEL}" y="16">times better than sshd, or what the table names; '
        f'<tspan fill="{GOOD}">goal met</tspan>, <tspan fill="{BAD}">not met</tspan>, '
        f'<tspan fill="{NONE}">no goal</tspan></text>',
    ]
    for ratio in (1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16):
        at = place(ratio)
        name = f"{ratio:g}" if ratio >= 1 else f"1/{1 / ratio:g}"
        parts.append(f'<line x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{height - 16}" stroke="#ccc"/>')
        parts.append(f'<text x="{at:.1f}" y="{TOP - 14}" text-anchor="middle" fill="#555">{name}</text>')
    one = place(1)
    for number, case in enumerate(shown):
        top, at = TOP + ROW * number, place(gain(case))
        colour = {True: GOOD, False: BAD, None: NONE}[case["met"]]
        left, width = min(one, at), max(abs(at - one), 1)
        name = f"{case['case']}, {case['amount']}" if case["amount"] else case["case"]
        parts.append(f'<text x="{LABEL - 8}" y="{top + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{left:.1f}" y="{top + 3}" width="{width:.1f}" height="{ROW - 7}" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
