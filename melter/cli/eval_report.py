"""What ``melter eval`` prints, plots and writes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.policy.compare import Comparison, Contender, Cost
    from melter.policy.evaluate import Episodes

    Costs = dict[str, dict[str, Cost]]
    """By quantity, then by contender."""


def plain_row(one: Contender, found: Comparison, by_quantity: Costs) -> dict[str, Any]:
    """Return one contender's fields for JSON."""
    from melter.policy.compare import plain_costs, plain_ratio

    row = {
        "name": one.name,
        "model": one.model,
        "controller": one.controller,
        "model_sha256": one.model_sha256,
        **found.evaluations[one.name].table(),
        **plain_ratio(found.ratios.get(one.name)),
    }
    return row | ({"by_quantity": plain_costs(by_quantity, one.name)} if by_quantity else {})


def plain(rows: list[dict[str, Any]], found: Comparison) -> dict[str, Any]:
    """Return the result for JSON: the first contender's fields at the top, all of them under ``contenders``."""
    from dataclasses import asdict

    together = None if found.together is None else asdict(found.together)
    return {**rows[0], "contenders": rows, "yardstick": found.yardstick, "together": together}


def text(found: Comparison, by_quantity: Costs) -> str:
    """Return the tables for people."""
    names = list(found.evaluations)
    lines = [next(iter(found.evaluations.values())).text()] if len(names) == 1 else _table(found)
    for name in names:
        kinds = found.evaluations[name].by_kind
        parts = [f"{kind} {one.rms_mm:.3f} ({one.episodes})" for kind, one in kinds.items()]
        dark = found.evaluations[name].dark_rms_mm
        parts += [] if dark is None else [f"dark moves {dark:.2f}"]
        lines.append(f"{'' if len(names) == 1 else name + ': '}by path, rms mm (episodes): {', '.join(parts)}")
    for name in names if by_quantity else []:
        lines.append(f"{name}: what a quantity costs when it alone varies, rms mm (95 %)")
        for quantity, cost in sorted(by_quantity.items(), key=lambda item: -item[1][name].cost_mm):
            one = cost[name]
            ended = f", {one.terminated} terminated" if one.terminated else ""
            lines.append(
                f"  {quantity:<24} {one.cost_mm:+.4f} ({one.cost_ci_mm[0]:+.4f} to {one.cost_ci_mm[1]:+.4f}){ended}"
            )
    return "\n".join(lines)


def _table(found: Comparison) -> list[str]:
    ratio_head = f"ratio to {found.yardstick} (95 %)" if found.yardstick else ""
    head = ("", "rms mm (95 %)", "p50", "p95", "max", "tension N", "ended", ratio_head)
    rows: list[tuple[str, ...]] = [head]
    for name, one in found.evaluations.items():
        rows.append(
            (
                name,
                f"{one.rms_mm:.3f} ({one.rms_ci_mm[0]:.3f} to {one.rms_ci_mm[1]:.3f})",
                f"{one.p50_mm:.3f}",
                f"{one.p95_mm:.3f}",
                f"{one.max_mm:.2f}",
                f"{one.tension_min_n:.0f} to {one.tension_max_n:.0f}",
                str(one.terminated),
                _ratio(found.ratios.get(name)),
            )
        )
    if found.together is not None:
        low, high = found.together.rms_ci_mm
        mean = f"{found.together.rms_mm:.3f} ({low:.3f} to {high:.3f})"
        rows.append((f"{found.together.models} models", mean, "", "", "", "", "", _ratio(found.together.ratio)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    episodes = next(iter(found.evaluations.values())).episodes
    lines = [f"{found.suite}, the same {episodes} episodes for each"]
    lines += ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for name, one in found.evaluations.items():
        lines += [f"{name}: {count} x {ending}" for ending, count in one.endings.items()]
    return lines


def _ratio(ratio: Any) -> str:
    return "" if ratio is None else f"{ratio.value:.3f} ({ratio.ci[0]:.3f} to {ratio.ci[1]:.3f})"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table beside its final name, then rename it."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        part.replace(path)
    except OSError as error:
        raise BadInput(f"--csv {path}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def figure(found: Comparison, played: dict[str, Episodes], by_quantity: Costs) -> Any:
    """Return the error's distribution, RMS bars by path, and bars of what each quantity costs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 3 if by_quantity else 2
    drawing = Figure(figsize=(5.2 * panels, 4.6 if not by_quantity else 7.0), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(1, panels)
    for name, episodes in played.items():
        values = np.sort(episodes.errors_mm[np.isfinite(episodes.errors_mm) & episodes.melting])
        thin = values[:: max(1, len(values) // 2000)]
        axes[0].plot(thin, np.linspace(0, 1, len(thin)), label=name)
    axes[0].set(xscale="log", xlabel="spot error (mm)", ylabel="share of moments below", title=found.suite)
    axes[0].grid(alpha=0.3)
    axes[0].legend()
    kinds = list(dict.fromkeys(kind for one in found.evaluations.values() for kind in one.by_kind))
    values = {name: [_kind_rms(one, kind) for kind in kinds] for name, one in found.evaluations.items()}
    _bars(axes[1], kinds, values, "RMS error (mm)", "by path")
    if by_quantity:
        order = sorted(by_quantity, key=lambda quantity: max(c.cost_mm for c in by_quantity[quantity].values()))
        for i, name in enumerate(found.evaluations):
            height = 0.8 / len(found.evaluations)
            places = np.arange(len(order)) + (i - (len(found.evaluations) - 1) / 2) * height
            axes[2].barh(places, [by_quantity[q][name].cost_mm for q in order], height, label=name)
        axes[2].set_yticks(np.arange(len(order)), order, fontsize=7)
        axes[2].set(xlabel="cost, RMS error (mm)", title="each quantity alone")
    return drawing


def _kind_rms(one: Any, kind: str) -> float:
    return one.by_kind[kind].rms_mm if kind in one.by_kind else 0.0


def _bars(axes: Any, names: list[str], values: dict[str, list[float]], label: str, title: str) -> None:
    width = 0.8 / len(values)
    for i, (name, heights) in enumerate(values.items()):
        axes.bar(np.arange(len(names)) + (i - (len(values) - 1) / 2) * width, heights, width, label=name)
    axes.set_xticks(np.arange(len(names)), names)
    axes.set(ylabel=label, title=title)
    axes.grid(axis="y", alpha=0.3)
