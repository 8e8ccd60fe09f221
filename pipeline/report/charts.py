"""Charts as static SVG: Altair builds the specification, vl-convert draws it, no script reaches the page.

Colours are the light theme's; the page's style sheet maps each of them to its dark counterpart, so that one SVG
serves both themes. Cost: about 30 ms a chart after a second to start the renderer.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import vl_convert
from markupsafe import Markup, escape

from pipeline.report.queries import Distribution, line
from pipeline.shown import shown

KEPT, LOST, INK, MUTED, GRID, SECOND = "#0f766e", "#e2703a", "#26292e", "#6b7079", "#e4e2dc", "#4f46a5"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_VERSION = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
_serial = itertools.count()


def render(chart: alt.TopLevelMixin, label: str) -> Markup:
    """The chart as inline SVG that scales with its box. `label` is what a screen reader says."""
    spec = chart.configure(
        background="transparent",
        font=FONT,
        padding={"left": 2, "right": 10, "top": 6, "bottom": 2},
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            domainColor=GRID, tickColor=GRID, gridColor=GRID, labelColor=MUTED, titleColor=MUTED, titleFontWeight=400,
            labelFontSize=11, titleFontSize=11, tickSize=4, labelPadding=4, titlePadding=7,
        ),
    ).to_dict()  # fmt: skip
    svg = vl_convert.vegalite_to_svg(spec, vl_version=_VERSION)
    svg = svg[svg.index("<svg") :]
    prefix = f"c{next(_serial)}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg).replace("url(#", f"url(#{prefix}")
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    view = box.group(0) if box else ""
    return Markup(f'<svg role="img" aria-label="{escape(label)}" {view} xmlns="http://www.w3.org/2000/svg">{body}')


def _data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def distribution(found: Distribution) -> Markup:
    """Histogram of a score, split where the rules split it, with a dashed line at each bound."""
    rows = []
    for low, high, passed, failed in zip(found.edges[:-1], found.edges[1:], found.passed, found.failed, strict=True):
        for start, count, side in ((0, passed, "passes"), (passed, failed, "fails")):
            if count:
                ends = {"low": float(low), "high": float(high)}
                rows.append({**ends, "bottom": int(start), "top": int(start + count), "side": side})
    scale = alt.Scale(
        type="log" if found.log else "linear",
        domain=[float(found.edges[0]), float(found.edges[-1])],
        nice=False,
    )
    step = 1 if found.whole else alt.Undefined
    ticks = "~s" if found.edges[-1] >= 1000 else ".3~r"
    axis = alt.Axis(grid=False, tickCount=5, format=ticks, labelOverlap=True, tickMinStep=step)
    bars = (
        alt.Chart(_data(rows))
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("low:Q", scale=scale, axis=axis, title=None),
            x2="high:Q",
            y=alt.Y("bottom:Q", axis=alt.Axis(tickCount=3, format="~s", domain=False, ticks=False), title=None),
            y2="top:Q",
            color=alt.Color("side:N", scale=alt.Scale(domain=["passes", "fails"], range=[KEPT, LOST]), legend=None),
        )
    )
    layers: list[Any] = [bars]
    shown = [b for b in found.bounds if found.edges[0] <= b.value <= found.edges[-1]]
    if shown:
        marks = _data([{"at": line(bound) if found.whole else bound.value} for bound in shown])
        layers.append(
            alt.Chart(marks)
            .mark_rule(color=INK, strokeDash=[4, 3], strokeWidth=1.3)
            .encode(x=alt.X("at:Q", scale=scale))
        )
    limits = ", ".join(f"{bound.op} {bound.value:g}" for bound in found.bounds)
    label = f"Histogram of {found.column}, median {found.median:.4g}" + (f", kept where {limits}" if limits else "")
    return render(alt.layer(*layers).properties(width=290, height=120), label)


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Mean over `reach` values to each side, fewer where the ends are near: it does not lag behind a falling loss."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    half = np.minimum(np.minimum(at, len(values) - 1 - at), reach)
    return ((total[at + half + 1] - total[at - half]) / (2 * half + 1)).tolist()


def training(rows: Sequence[Mapping[str, Any]], spikes: Collection[int] = ()) -> Markup:
    """Loss over tokens seen: each step faintly, its moving average, validation as points with their errors, and the
    steps that are `spikes`. A row may have a validation loss alone."""
    rows = [row for row in rows if finite(row.get("tokens"))]
    learned = [row for row in rows if finite(row.get("loss"))]
    if not learned:
        return Markup("")
    thin = learned[:: max(1, len(learned) // 1500)]
    averaged = smooth([row["loss"] for row in thin], len(thin) // 50)
    steps = [{"tokens": row["tokens"], "loss": row["loss"], "mean": m} for row, m in zip(thin, averaged, strict=True)]
    x, title = _tokens_axis(), "loss (nats per token)"
    scale = alt.Scale(zero=False, nice=True)
    base = alt.Chart(_data(steps)).encode(x=x)
    layers: list[Any] = [
        base.mark_line(color=KEPT, strokeWidth=1, opacity=0.3).encode(y=alt.Y("loss:Q", scale=scale, title=title)),
        base.mark_line(color=KEPT, strokeWidth=2.2).encode(y=alt.Y("mean:Q", scale=scale, title=title)),
    ]
    points = [_point(row, "val_loss", row) for row in rows if finite(row.get("val_loss"))]
    if points:
        mark = alt.Chart(_data(points)).encode(x=x)
        layers.append(mark.mark_rule(color=SECOND, strokeWidth=1.2).encode(y=alt.Y("low:Q", title=title), y2="high:Q"))
        dots = mark.mark_point(filled=True, color=SECOND, size=38, opacity=1)
        layers.append(dots.encode(y=alt.Y("value:Q", scale=scale, title=title)))
    high = [{"tokens": row["tokens"], "loss": row["loss"]} for row in learned if row.get("step") in spikes]
    if high:
        mark = alt.Chart(_data(high)).mark_point(color=LOST, filled=True, size=60, shape="triangle-down", opacity=1)
        layers.append(mark.encode(x=x, y=alt.Y("loss:Q", scale=scale, title=title)))
    label = f"Training loss from {learned[0]['loss']:.3f} to {learned[-1]['loss']:.3f} over {rows[-1]['tokens']} tokens"
    return render(alt.layer(*layers).properties(width=1000, height=260), label)


def by_source(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Markup:
    """Validation bits per byte of each of several sources over tokens seen, side by side on one scale."""
    points = [
        {"source": shown(name, None), **_point(row, "bits_per_byte", row["validation"][name])}
        for name in names
        for row in rows
        if finite(row.get("tokens")) and finite(((row.get("validation") or {}).get(name) or {}).get("bits_per_byte"))
    ]
    if len(names) < 2 or len(points) < 2 * len(names):
        return Markup("")
    x, across = _tokens_axis(3), min(4, len({row["source"] for row in points}))
    axis = alt.Axis(tickCount=4, format=".2f", domain=False, ticks=False)
    scale = alt.Scale(zero=False, nice=True)
    base = alt.Chart().encode(x=x)
    layers = alt.layer(
        base.mark_area(color=SECOND, opacity=0.16).encode(y=alt.Y("low:Q", title=None), y2="high:Q"),
        base.mark_line(
            color=SECOND, strokeWidth=2, point=alt.OverlayMarkDef(filled=True, size=26, color=SECOND)
        ).encode(y=alt.Y("value:Q", scale=scale, axis=axis, title=None)),
        data=_data(points),
    ).properties(width=960 // across - 30, height=120)
    header = alt.Header(
        title=None, labelColor=INK, labelFontSize=12, labelFontWeight=600, labelAnchor="start", labelLimit=190
    )
    label = "Validation bits per byte by source: " + ", ".join(
        f"{name} {value:.3f}" for name, value in {row["source"]: row["value"] for row in points}.items()
    )
    return render(
        layers.facet(
            facet=alt.Facet("source:N", header=header, sort=[shown(name, None) for name in names]), columns=across
        ),
        label,
    )


def _tokens_axis(ticks: int = 6) -> alt.X:
    labels = "datum.value === 0 ? '0' : format(datum.value, '~s')"
    axis = alt.Axis(labelExpr=labels, tickCount=ticks, grid=False)
    return alt.X("tokens:Q", axis=axis, scale=alt.Scale(nice=False), title="training tokens")


def _point(row: Mapping[str, Any], name: str, numbers: Mapping[str, Any]) -> dict[str, float]:
    value, error = numbers[name], numbers.get(f"{name}_stderr") or 0.0
    return {"tokens": row["tokens"], "value": value, "low": value - error, "high": value + error}


def probe(task: str, rows: Sequence[Mapping[str, Any]], metric: str, title: str, chance: float | None) -> Markup:
    """A metric over steps with a band of one standard error, and the chance line where there is one."""
    points = []
    for row in rows:
        if finite(row.get(metric)):
            error = row.get(f"{metric}_stderr") or 0.0
            value = row[metric]
            points.append({"step": row["step"], "value": value, "low": value - error, "high": value + error})
    if not points:
        return Markup("")
    x = alt.X("step:Q", axis=alt.Axis(tickCount=4, format="~s", grid=False, tickMinStep=1), title="step")
    share = metric != "bits_per_byte"
    axis = alt.Axis(tickCount=4, format=".0%" if share else ".2f", domain=False, ticks=False)
    y = alt.Y("value:Q", scale=alt.Scale(zero=False, nice=True), axis=axis, title=None)
    color = KEPT if share else SECOND
    base = alt.Chart(_data(points))
    layers: list[Any] = [
        base.mark_area(color=color, opacity=0.16).encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q"),
        base.mark_line(color=color, strokeWidth=2, point=alt.OverlayMarkDef(filled=True, size=26, color=color)).encode(
            x=x, y=y
        ),
    ]
    if len(points) == 1:
        layers.append(base.mark_rule(color=color, opacity=0.5).encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q"))
    if chance is not None:
        level = alt.Chart(_data([{"chance": chance}]))
        layers.append(
            level.mark_rule(color=LOST, strokeDash=[4, 3], strokeWidth=1.3).encode(y=alt.Y("chance:Q", title=None))
        )
    label = f"{task}: {title} {points[-1]['value']:.4g} at step {points[-1]['step']}"
    return render(alt.layer(*layers).properties(width=430, height=150), label)


def keep_rate(name: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Precision, recall and share kept of a classifier's held-out documents, over its threshold."""
    points = [row for row in rows if all(finite(row.get(k)) for k in ("threshold", "kept", "precision", "recall"))]
    if not points:
        return Markup("")
    x = alt.X("threshold:Q", axis=alt.Axis(tickCount=5, grid=False), title="keep scores from here")
    axis = alt.Axis(tickCount=4, format=".0%", domain=False, ticks=False)
    base = alt.Chart(_data(points)).encode(x=x)
    lines: tuple[tuple[str, str, list[int]], ...] = (
        ("precision", KEPT, []),
        ("recall", SECOND, []),
        ("kept", INK, [4, 3]),
    )
    layers = [
        base.mark_line(color=color, strokeWidth=1.8, strokeDash=dash or alt.Undefined).encode(
            y=alt.Y(f"{field}:Q", scale=alt.Scale(domain=[0, 1]), axis=axis, title=None)
        )
        for field, color, dash in lines
    ]
    label = f"{name}: precision, recall and share kept at {len(points)} thresholds"
    return render(alt.layer(*layers).properties(width=430, height=170), label)


def curve(found: Mapping[str, Any], mark: float | None) -> Markup:
    """A line over its x values, with a dashed one at `mark` where it lies among them."""
    points = [{"x": x, "y": y} for x, y in zip(found["x"], found["y"], strict=True) if finite(x) and finite(y)]
    if not points:
        return Markup("")
    low, high = min(row["x"] for row in points), max(row["x"] for row in points)
    x = alt.X("x:Q", axis=alt.Axis(tickCount=5, grid=False), scale=alt.Scale(domain=[low, high], nice=False),
              title=found["x_label"])  # fmt: skip
    y = alt.Y("y:Q", axis=alt.Axis(tickCount=4, format=".3~r", domain=False, ticks=False), title=found["y_label"])
    layers: list[Any] = [alt.Chart(_data(points)).mark_line(color=KEPT, strokeWidth=2).encode(x=x, y=y)]
    label = f"{found['title']}: {found['y_label']} over {found['x_label']}"
    if mark is not None and low <= mark <= high:
        layers.append(
            alt.Chart(_data([{"x": mark}])).mark_rule(color=INK, strokeDash=[4, 3], strokeWidth=1.3).encode(x=x)
        )
        label += f", line at {mark:g}"
    return render(alt.layer(*layers).properties(width=300, height=150), label)


def bars(rows: Sequence[Mapping[str, Any]], label: str) -> Markup:
    """Bars in the given order: `name` below each, as high as `count`. A scale of roots keeps rare ones visible."""
    if not rows:
        return Markup("")
    x = alt.X("name:N", sort=[row["name"] for row in rows], title=None,
              axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False))  # fmt: skip
    y = alt.Y("count:Q", scale=alt.Scale(type="sqrt"), title=None,
              axis=alt.Axis(tickCount=4, format="~s", domain=False, ticks=False))  # fmt: skip
    marks = alt.Chart(_data(rows)).mark_bar(color=LOST).encode(x=x, y=y)
    return render(marks.properties(width=300, height=150), label)


def similarities(found: Mapping[str, Any], mark: float | None) -> Markup:
    """Histogram of similarities (`edges`, `counts`) from the first filled bin on, with a dashed line at `mark`."""
    filled = [at for at, count in enumerate(found["counts"]) if count]
    if not filled:
        return Markup("")
    edges, first = found["edges"], filled[0]
    rows = [
        {"low": edges[at], "high": edges[at + 1], "count": count, "zero": 0}
        for at, count in enumerate(found["counts"])
        if at >= first and count
    ]
    low = min(edges[first], mark if mark else 1.0)
    scale = alt.Scale(domain=[low, edges[-1]], nice=False)
    x = alt.X("low:Q", scale=scale, axis=alt.Axis(tickCount=5, grid=False), title="similarity with the copy that stays")
    y = alt.Y("zero:Q", axis=alt.Axis(tickCount=4, format="~s", domain=False, ticks=False), title=None)
    layers: list[Any] = [
        alt.Chart(_data(rows)).mark_rect(color=LOST, stroke=None).encode(x=x, x2="high:Q", y=y, y2="count:Q")
    ]
    if mark:
        rule = alt.Chart(_data([{"low": mark}])).mark_rule(color=INK, strokeDash=[4, 3], strokeWidth=1.3)
        layers.append(rule.encode(x=x))
    label = f"Histogram of similarities from {edges[first]:g} on" + (f", threshold {mark:g}" if mark else "")
    return render(alt.layer(*layers).properties(width=300, height=150), label)


def finite(value: Any) -> bool:
    """A number that is one."""
    return isinstance(value, int | float) and math.isfinite(value)
