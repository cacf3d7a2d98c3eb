"""The plate diagram of a model as inline SVG: see boxes.py for where things go."""

from collections.abc import Sequence

from jensen.core.html import Html, element, joined
from jensen.report.boxes import Box, arranged
from jensen.report.svg import clipped

_LETTER, _LONGEST = 8.2, 22
_HEIGHT, _ROW, _GAP = 40, 92, 26
_PAD, _STEP, _LABEL = 9, 13, 15
"""Of plates around their boxes: the innermost, what every further one adds, room for the label."""


def diagram(boxes: Sequence[Box]) -> Html:
    """Draw the boxes, the arrows from parents to children, and the plates."""
    places = arranged(boxes)
    width = 16 + _LETTER * max(min(max(len(box.name), len(box.law)), _LONGEST) for box in boxes)
    plates = _plates(boxes)
    pitch = width + _GAP + _STEP * max(plates.values(), default=0)
    margin = _PAD + _STEP * max(plates.values(), default=0) + 6
    center = {
        name: (margin + width / 2 + pitch * column, margin + _HEIGHT / 2 + _ROW * rank)
        for name, (column, rank) in places.items()
    }
    frames, loose = [], []
    for plate, depth in plates.items():
        inside = [center[box.name] for box in boxes if plate in box.plates]
        pad = _PAD + _STEP * depth
        left, right = min(x for x, _ in inside) - width / 2 - pad, max(x for x, _ in inside) + width / 2 + pad
        top, bottom = (
            min(y for _, y in inside) - _HEIGHT / 2 - pad,
            max(y for _, y in inside) + _HEIGHT / 2 + pad + _LABEL,
        )
        outside = [center[box.name] for box in boxes if plate not in box.plates]
        if any(left < x + width / 2 and x - width / 2 < right and top < y < bottom for x, y in outside):
            loose.append(plate)
            continue
        frames.append((left, top, right, bottom, plate))
    drawn = [_frame(*frame) for frame in frames]
    for box in boxes:
        drawn += [_arrow(center[parent], center[box.name]) for parent in box.parents]
    drawn += [_box(box, center[box.name], width, [p for p in box.plates if p in loose]) for box in boxes]
    drawn += [_label(frame[2], frame[3], frame[4]) for frame in frames]  # last: arrows may run below them
    right = max([x + width / 2 for x, _ in center.values()] + [frame[2] for frame in frames]) + 6
    bottom = max([y + _HEIGHT / 2 for _, y in center.values()] + [frame[3] for frame in frames]) + 6
    return element(
        "svg",
        element("title", _sentence(boxes)),
        *drawn,
        viewBox=f"0 0 {right:.0f} {bottom:.0f}",
        width=f"{right:.0f}",
        height=f"{bottom:.0f}",
        role="img",
        class_="diagram",
    )


def _plates(boxes: Sequence[Box]) -> dict[str, int]:
    """Every plate, with the number of plates that are drawn inside of it."""
    members: dict[str, frozenset[str]] = {}
    for box in boxes:
        for plate in box.plates:
            members[plate] = members.get(plate, frozenset()) | {box.name}
    depth: dict[str, int] = {}
    for plate in sorted(members, key=lambda plate: len(members[plate])):
        inner = [depth[other] for other in depth if members[other] & members[plate]]
        depth[plate] = max(inner, default=-1) + 1
    return depth


def _frame(left: float, top: float, right: float, bottom: float, _: str) -> Html:
    size = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": f"{right - left:.1f}", "height": f"{bottom - top:.1f}"}
    return element("rect", rx=6, class_="plate", **size)


def _label(right: float, bottom: float, plate: str) -> Html:
    return element(
        "text", clipped(plate, _LONGEST), x=f"{right - 7:.1f}", y=f"{bottom - 5:.1f}", class_="tick end halo"
    )


def _box(box: Box, center: tuple[float, float], width: float, loose: list[str]) -> Html:
    x, y = center
    law = " ".join([box.law, *(f"[{plate}]" for plate in loose)])
    return element(
        "g",
        element("title", f"{box.name}: {box.kind}, {box.law}"),
        element(
            "rect",
            x=f"{x - width / 2:.1f}",
            y=f"{y - _HEIGHT / 2:.1f}",
            width=f"{width:.1f}",
            height=_HEIGHT,
            rx=0 if box.kind == "factor" else 4 if box.kind == "observed" else _HEIGHT / 2,
        ),
        element("text", clipped(box.name, _LONGEST), x=f"{x:.1f}", y=f"{y - 2:.1f}", class_="name middle"),
        element("text", clipped(law, _LONGEST), x=f"{x:.1f}", y=f"{y + 13:.1f}", class_="tick middle"),
        class_=f"box {box.kind}",
    )


def _arrow(parent: tuple[float, float], child: tuple[float, float]) -> Html:
    """From the bottom of a box to the top of another one, bent so that it arrives from above."""
    (a, b), (c, d) = parent, child
    down = 1 if d > b else -1
    b, d = b + down * _HEIGHT / 2, d - down * (_HEIGHT / 2 + 1)
    bend = down * max(abs(d - b) * 0.45, 14)
    path = f"M{a:.1f} {b:.1f}C{a:.1f} {b + bend:.1f} {c:.1f} {d - bend:.1f} {c:.1f} {d - 5 * down:.1f}"
    head = f"M{c:.1f} {d:.1f}l-4 {-8 * down}h8Z"
    return joined([element("path", d=path, class_="arrow"), element("path", d=head, class_="head")])


def _sentence(boxes: Sequence[Box]) -> str:
    parts = [f"{box.name} ({box.law}{', observed' * (box.kind == 'observed')})" for box in boxes]
    reads = [f"{box.name} depends on {', '.join(box.parents)}" for box in boxes if box.parents]
    return f"Plate diagram with {', '.join(parts)}. {'; '.join(reads)}."
