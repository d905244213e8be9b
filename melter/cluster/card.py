"""The page that goes with a shared policy: what it is for, how it did, how to use it."""

from __future__ import annotations

from typing import Any

from melter.safety.bundle import Manifest


def model_card(
    manifest: Manifest,
    weights_sha256: str,
    config: dict[str, Any],
    results: dict[str, Any],
    certificate: dict[str, Any],
    video: str | None,
) -> str:
    """Return a page in Markdown with the metadata block that model hubs read."""
    algorithm = str(manifest.algorithm or config.get("algorithm") or "unknown")
    machine = str(manifest.machine_name or "unknown")
    parts = [
        _head(algorithm, machine, results),
        f"# {algorithm.upper()} for {machine}\n\n"
        "A policy for a cable robot that melts sand with focused sunlight: it tells eight winches how fast to turn, from what a "
        "webcam and the winch counters tell.\n\n"
        "**A focused sun melts rock.** Before this moves a machine, run `melter safety-check` on it yourself, with your own "
        "machine file: whatever is said below was found on the sender's computer.",
        _facts(manifest, weights_sha256, config),
        _suites(results),
        _certificate(certificate),
        f"## Video\n\n`{video}`" if video else "",
        "## Use\n\n```console\n$ melter pull hf://OWNER/NAME --out policy   # or a folder, or a URL; every file is checked\n"
        "$ melter safety-check policy\n$ melter eval policy --suite outdoor\n$ melter enjoy policy --video look.mp4\n```\n\n"
        "`policy.safetensors` holds numbers only; `manifest.json` says what they mean. Nothing here is a pickle.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(algorithm: str, machine: str, results: dict[str, Any]) -> str:
    lines = ["---", "library_name: melter", "pipeline_tag: reinforcement-learning", "tags:"]
    lines += [f"- {tag}" for tag in ("melter", "reinforcement-learning", "robotics", algorithm)]
    lines += ["model-index:", f"- name: {algorithm}-{machine}", "  results:"]
    for suite, found in results.items():
        if isinstance(found, dict) and isinstance(found.get("rms_mm"), int | float):
            lines += [
                "  - task: {type: reinforcement-learning}",
                f"    dataset: {{name: melter {suite}, type: melter/SandMelter-v0}}",
                f"    metrics: [{{type: rms_mm, value: {found['rms_mm']:.4f}}}]",
            ]
    return "\n".join([*lines, "---"]) if results else "\n".join([*lines[: lines.index("model-index:")], "---"])


def _facts(manifest: Manifest, weights_sha256: str, config: dict[str, Any]) -> str:
    versions = config.get("versions") or {}
    rows = [
        ("machine", f"{manifest.machine_name}, sha256 `{manifest.machine_sha256}`"),
        ("control rate", f"{manifest.control_rate_hz:g} Hz" if manifest.control_rate_hz else "unknown"),
        ("layers", " → ".join(map(str, manifest.layers)) + f", {manifest.activation}"),
        ("observation", f"sha256 `{manifest.observation_sha256}`"),
        ("weights", f"sha256 `{weights_sha256}`"),
        ("seed", config.get("seed")),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
        ("commit", config.get("commit")),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _suites(results: dict[str, Any]) -> str:
    lines: list[str] = []
    for suite, found in results.items():
        if not isinstance(found, dict):
            continue
        figures = [found.get(name) for name in ("rms_mm", "p50_mm", "p95_mm", "max_mm")]
        told = [f"{value:.3f}" if isinstance(value, int | float) else "–" for value in figures]
        lines.append(
            f"| {suite} | {found.get('episodes', '–')} | {' | '.join(told)} | {found.get('terminated', '–')} |"
        )
    if not lines:
        return ""
    head = [
        "| suite | episodes | RMS (mm) | median (mm) | 95 % (mm) | most (mm) | terminated |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(["## How well it keeps the spot on the path", "", *head, *lines])


def _certificate(certificate: dict[str, Any]) -> str:
    claims = certificate.get("claims")
    if not isinstance(claims, dict):
        return "## Safety\n\nNo certificate came with it."
    rows = [f"| {name} | {status} |" for name, status in claims.items()]
    when = f", {certificate['date_utc']}" if "date_utc" in certificate else ""
    return "\n".join(
        [
            f"## Safety\n\nThe sender's safety check: {certificate.get('verdict')}{when}.",
            "",
            "| claim | |",
            "|---|---|",
            *rows,
        ]
    )
