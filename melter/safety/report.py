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
<h2>Against the limits</h2>{_limits_plot(report)}{_speeds_plot(report)}
<p>How often each stage of the layer stepped in, of all winch commands in simulation: {_stages(report)}.</p>
<h2>Going dark</h2>{_drill_plot(report)}{_dark_plot(report)}
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
    upper = [claim for claim in report.claims if claim.limit and claim.name != "cables taut"]
    shown = [claim for claim in upper if np.isfinite(claim.bound or claim.best or np.nan)]
    share = [(claim.bound if claim.bound is not None else claim.best or 0.0) / (claim.limit or 1.0) for claim in shown]
    colours = {"proven": "#2a9d5c", "falsified": "#c62839", "not proven": "#d99a2b"}
    axes.barh(
        [f"{claim.section}: {claim.name}" for claim in shown], share, color=[colours[claim.status] for claim in shown]
    )
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("bound (or worst found) over limit")
    axes.invert_yaxis()
    return _svg(figure)


def _stages(report: Report) -> str:
    return (
        ", ".join(f"{html.escape(name)} {share:.2%}" for name, share in report.interventions.items()) or "not simulated"
    )


def _speeds_plot(report: Report) -> str:
    """Per winch: what the policy can be made to ask for, and what was driven, against the limit; tensions beside."""
    if not report.speeds:
        return ""
    figure, axes = _figure(9, 3)
    winches = np.arange(1, len(report.speeds["highest"]) + 1)
    low, high = (np.array(report.speeds[name]) for name in ("lowest", "highest"))
    axes.vlines(winches, low, high, color="#8899aa", linewidth=8, alpha=0.5, label="policy alone, worst found")
    if "driven" in report.speeds:
        axes.plot(winches, report.speeds["driven"], "o", color="#c96a12", label="driven in simulation, fastest")
    limit = next(c.limit for c in report.claims if (c.section, c.name) == ("raw policy", "cable speed"))
    for sign in (1, -1):
        axes.axhline(sign * (limit or 0.0), color="black", linewidth=1, linestyle="--")
    axes.set_xlabel("winch")
    axes.set_ylabel("cable speed, m/s")
    axes.legend(loc="center right", fontsize="small")
    tension = report.speeds.get("tension")
    said = "" if tension is None else f"<p>Cable tension in simulation: {tension[0]:.0f} to {tension[1]:.0f} N.</p>"
    return _svg(figure) + said


def _drill_plot(report: Report) -> str:
    figure, axes = _figure(9, 3.2)
    for peaks in report.drill.peaks_w_m2:
        axes.semilogy(report.drill.times_s, np.maximum(peaks, 1.0), color="#c96a12", alpha=0.4, linewidth=1)
    axes.set_title("as the cables say, without dynamics", fontsize="medium")
    return _dress(figure, axes)


def _dark_plot(report: Report) -> str:
    """Peaks on the sand in the randomised simulator, by fault."""
    dark = report.dark
    if dark is None:
        return ""
    figure, axes = _figure(9, 3.6)
    colours = ("#c96a12", "#2a6f9d", "#6a4c93", "#c62839")
    times = np.arange(dark.peaks_w_m2.shape[1]) * dark.period_s
    for fault, colour in zip(sorted(set(dark.fault.tolist())), colours, strict=False):
        rows = dark.peaks_w_m2[(dark.fault == fault) & dark.held][:60]
        for number, peaks in enumerate(rows):
            label = fault if number == 0 else None
            axes.semilogy(times, np.clip(peaks, 1.0, 1e8), color=colour, alpha=0.4, linewidth=0.8, label=label)
    axes.set_title("randomised simulator, one fault each", fontsize="medium")
    axes.legend(loc="lower left", fontsize="small")
    return _dress(figure, axes)


def _dress(figure: Any, axes: Any) -> str:
    axes.axhline(SAFE_W_M2, color="black", linewidth=1, linestyle="--")
    axes.set_xlabel("s from the beginning of the way")
    axes.set_ylabel("peak on the sand, W/m²")
    return _svg(figure)


def _example_plot(claim: Claim) -> str:
    """The observations of a counterexample, and the actions that the policy answers with."""
    example = claim.counterexample
    if example is None:
        return ""
    figure, axes = _figure(9, 2.6)
    for number, row in enumerate(np.nan_to_num(np.array(example.observations), posinf=0, neginf=0)):
        axes.step(np.arange(len(row)), row, where="mid", label=f"observation {number + 1}")
    axes.set_xlabel("entry of the observation")
    axes.set_ylabel("value (scaled)")
    axes.legend(fontsize="small")
    answer, answers = _figure(9, 2.0)
    actions = np.nan_to_num(np.array(example.actions), posinf=0, neginf=0)
    for number, row in enumerate(actions):
        answers.bar(np.arange(1, len(row) + 1) + 0.3 * number, row, width=0.28, label=f"action {number + 1}")
    for limit in (1, -1):
        answers.axhline(limit, color="black", linewidth=1, linestyle="--")
    answers.set_xlabel("winch")
    answers.set_ylabel("share of normal speed")
    answers.legend(fontsize="small")
    words = f"{example.value:.4g} {html.escape(example.unit)} against a limit of {example.limit:.4g}; what is no number is drawn as 0."
    return f"{_svg(figure)}{_svg(answer)}<p>{words}</p>"
