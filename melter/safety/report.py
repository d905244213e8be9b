"""The safety check as one self-contained HTML page with plots."""

from __future__ import annotations

import html
import io
from typing import Any

import numpy as np

from melter.safety.claims import Claim, Report
from melter.safety.drill import SAFE_W_M2

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.3em .6em;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}small{color:#666}code{font-size:85%;word-break:break-all}
.proven{color:#0a6b2d}.falsified{color:#b00020}.not-proven{color:#8a5a00}svg{max-width:100%;height:auto}"""


def page(report: Report) -> str:
    """Return the report as an HTML page that needs no other file."""
    sections = list(dict.fromkeys(claim.section for claim in report.claims))
    tables = "".join(f"<h2>{section}</h2>{_claims(report, section)}" for section in sections)
    examples = [claim for claim in report.claims if claim.counterexample is not None]
    drawn = "".join(
        f"<h3>{html.escape(claim.section)}: {html.escape(claim.name)}</h3>{_example_plot(claim)}" for claim in examples
    )
    proof = report.proof
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>safety check: {html.escape(report.model)}</title>
<style>{_STYLE}</style></head><body><h1>Safety check: {report.verdict}</h1>
<p>Model {html.escape(report.model)}<br><code>sha256 {report.model_sha256}</code></p>
<p>Machine {html.escape(report.machine)}<br><code>sha256 {report.machine_sha256}</code></p>
{tables}<h2>The proof</h2><p>{proof.states:,} states, {proof.transitions:,} transitions, {proof.violations} violations,
{proof.empty_intervals} empty intervals, {proof.seconds:.1f} s.</p>
<h2>Against the limits</h2>{_limits_plot(report)}<h2>Going dark</h2>{_drill_plot(report)}
{"<h2>Counterexamples</h2>" + drawn if drawn else ""}</body></html>
"""


def _claims(report: Report, section: str) -> str:
    rows = "".join(_row(claim) for claim in report.claims if claim.section == section)
    head = "<tr><th>status</th><th>claim</th><th>bound</th><th>worst found</th><th>limit</th><th>unit</th></tr>"
    return f"<table>{head}{rows}</table>"


def _row(claim: Claim) -> str:
    numbers = "".join(
        f'<td class="n">{"" if x is None else f"{x:.4g}"}</td>' for x in (claim.bound, claim.best, claim.limit)
    )
    extra = "" if claim.required else " (reported, not required)"
    name = f"{html.escape(claim.name)}{extra}<br><small>{html.escape(claim.method)}</small>"
    kind = claim.status.replace(" ", "-")
    return f'<tr><td class="{kind}">{claim.status}</td><td>{name}</td>{numbers}<td>{html.escape(claim.unit)}</td></tr>'


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _limits_plot(report: Report) -> str:
    figure, axes = _figure(9, 3.5)
    shown = [claim for claim in report.claims if claim.limit and np.isfinite(claim.bound or claim.best or np.nan)]
    share = [(claim.bound if claim.bound is not None else claim.best or 0.0) / (claim.limit or 1.0) for claim in shown]
    colours = {"proven": "#2a9d5c", "falsified": "#c62839", "not proven": "#d99a2b"}
    axes.barh(
        [f"{claim.section}: {claim.name}" for claim in shown], share, color=[colours[claim.status] for claim in shown]
    )
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("bound (or worst found) over limit")
    axes.invert_yaxis()
    return _svg(figure)


def _drill_plot(report: Report) -> str:
    figure, axes = _figure(9, 3.5)
    for peaks in report.drill.peaks_w_m2:
        axes.semilogy(report.drill.times_s, np.maximum(peaks, 1.0), color="#c96a12", alpha=0.4, linewidth=1)
    axes.axhline(SAFE_W_M2, color="black", linewidth=1, linestyle="--")
    axes.set_xlabel("s after the fault")
    axes.set_ylabel("peak on the sand, W/m²")
    return _svg(figure)


def _example_plot(claim: Claim) -> str:
    figure, (axes) = _figure(9, 2.6)
    if claim.counterexample is None:
        return ""
    rows = np.nan_to_num(np.array(claim.counterexample.observations), posinf=0, neginf=0)
    for number, row in enumerate(rows):
        axes.step(np.arange(len(row)), row, where="mid", label=f"observation {number + 1}")
    axes.set_xlabel("entry of the observation")
    axes.set_ylabel("value (scaled)")
    axes.legend()
    actions = "; ".join(", ".join(f"{value:.3f}" for value in row) for row in claim.counterexample.actions)
    return f"{_svg(figure)}<p>Actions: {html.escape(actions)}</p>"
