"""Home of the report on an experiment compiled ahead: as text, and as a page with plots."""

import json
import os
from pathlib import Path

GIB = 2**30


def text(report: dict) -> str:
    """The report as tables for a terminal, in Markdown."""
    assumed = "Assumed:\n" + "\n".join(f"- {one}" for one in report["assumed"])
    if "meshes" in report:
        return f"{report['experiment']} on {where(report)}\n\n{table(mesh_rows(report))}\n\n{assumed}"
    parts = [f"{report['experiment']} on {where(report)}", table(memory_rows(report))]
    timed = time_rows(report)
    if len(timed) > 1:
        parts += [table(timed), table(sent_rows(report)), table(collective_rows(report))]
    if report["cost"]:
        parts.append(cost_line(report["cost"]))
    parts.append(assumed)
    if report.get("tried"):
        parts.append(f"{tried_title(report)}:\n" + table(tried_rows(report["tried"])))
    if "chosen" in report:
        parts.append("Chosen: " + fields(report["chosen"]))
    return "\n\n".join(parts)


def where(report: dict) -> str:
    """The slice in words, with the mesh where there is one."""
    mesh = " x ".join(f"{name} {size}" for name, size in report.get("mesh", {}).items())
    return f"{report['topology']}: {report['chips']} chips" + (f", mesh {mesh}" if mesh else "")


def table(rows: list[list[str]]) -> str:
    """Rows as Markdown, the first one its head, columns aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def memory_rows(report: dict) -> list[list[str]]:
    """GiB of a chip by program."""
    rows = [
        [
            "GiB a device",
            "arguments",
            "temporaries",
            "in use at most",
            "beside it",
            "needed",
            "of",
            "",
            "compiled in",
        ]
    ]
    for name, found in report["programs"].items():
        keys = ("argument", "temporary", "peak", "resident", "needed", "hbm")
        cells = [
            f"{found[f'{key}_bytes'] / GIB:.2f}" if found.get(f"{key}_bytes") is not None else "–"
            for key in keys
        ]
        verdict = "fits" if found["fits"] else found.get("refused", "does not fit")
        verdict += f"; no time, for {found['untimed']}" if "untimed" in found else ""
        rows.append([name, *cells, verdict, f"{found['compile_seconds']:.0f} s"])
    return rows


def time_rows(report: dict) -> list[list[str]]:
    """Predicted seconds of a run by program and phase."""
    rows = [
        [
            "predicted seconds, at the least",
            "products",
            "memory",
            "links",
            "not overlapped",
            "bound",
            "in all",
            "TFLOP a device",
            "runs",
        ]
    ]
    for name, found in report["programs"].items():
        for phase, seen in found.get("phases", {}).items():
            numbers = [f"{seen[key]:.3g}" for key in ("compute", "memory", "links", "exposed")]
            said = {
                "loop": f"{name}: decoding",
                "rest": name if len(found["phases"]) == 1 else f"{name}: the rest",
            }[phase]
            rows.append(
                [
                    said,
                    *numbers,
                    seen["bound"],
                    f"{seen['seconds']:.3g}",
                    f"{found['flops_per_chip'][phase] / 1e12:.4g}",
                    str(found["runs"]),
                ]
            )
    return rows


def collective_rows(report: dict) -> list[list[str]]:
    """GiB that a device sends in a run, by kind."""
    rows = [["collectives", "devices", "phase", "overlapped", "count", "GiB sent", "seconds"]]
    for name, found in report["programs"].items():
        for row in found.get("collectives", []):
            if row["wire_bytes"] < GIB / 1000:
                continue
            phase, hidden = (
                {"loop": "decoding", "rest": "–"}[row["phase"]],
                "yes" if row["overlapped"] else "no",
            )
            sent = [f"{row['wire_bytes'] / GIB:.3f}", f"{row['seconds']:.3g}"]
            rows.append(
                [f"{name}: {row['kind']}", str(row["chips"]), phase, hidden, str(row["count"]), *sent]
            )
    return rows


def sent_rows(report: dict) -> list[list[str]]:
    """GiB that a device sends in a run of each program, beside the law for those that train."""
    head = [
        "GiB",
        "by the law",
        "ratio",
        "with layers gathered again",
        "ratio",
        "MiB waited for at once in a layer",
    ]
    rows = [["sent by a device", *head]]
    for name, found in report["programs"].items():
        sent, law = found.get("sent_bytes"), found.get("law_bytes")
        if sent is None:
            continue
        beside = ["–"] * 4
        if law and law["least"]:
            beside = [
                word
                for bytes in (law["least"], law["again"])
                for word in (f"{bytes / GIB:.3f}", f"{sent / bytes:.2f}")
            ]
        rows.append([name, f"{sent / GIB:.3f}", *beside, f"{found['waited_for_bytes'] / 2**20:.1f}"])
    return rows


def fields(overrides: dict) -> str:
    """Fields as they are given on the command line."""
    return " ".join(f'--config.{field}="{value}"' if isinstance(value, (tuple, list)) else f"--config.{field}={value}"
                    for field, value in overrides.items())  # fmt: skip


def tried_title(report: dict) -> str:
    """Why something was tried."""
    return (
        "Tried, to choose the largest that fits" if "chosen" in report else "Tried, because it does not fit"
    )


def cost_line(cost: dict) -> str:
    """The whole experiment in a sentence."""
    return (
        f"The whole experiment, predicted: {cost['runs']} rounds of at least {cost['seconds_a_run']:.3g} s = {cost['hours']:.3g} h, "
        f"{cost['chip_hours']:,.0f} chip-hours; at most {cost['mfu']:.1%} MFU ({cost['hfu']:.1%} with what is computed again), "
        f"{cost['tokens_a_second']:,.0f} tokens/s."
    )


def tried_rows(tried: list[dict]) -> list[list[str]]:
    """What was tried in order."""
    rows = [["change", "program", "GiB needed", "", "predicted s", "compiled in"]]
    for one in tried:
        seconds = f"{one['seconds']:.3g}" if "seconds" in one else "–"
        needed = "–" if one.get("needed_bytes") is None else f"{one['needed_bytes'] / GIB:.2f}"
        verdict = "fits" if one["fits"] else one.get("refused", "does not fit")
        took = f"{one.get('compile_seconds', 0):.0f} s"
        rows.append([fields(one["overrides"]), one["program"], needed, verdict, seconds, took])
    return rows


def mesh_rows(report: dict) -> list[list[str]]:
    """The meshes of a sweep, the best first."""
    rows = [
        ["data x fsdp x tensor", "GiB needed at most", "predicted s a round", "MFU at most", "chip-hours", ""]
    ]
    for one in report["meshes"]:
        cost, needed = one.get("cost"), one.get("needed_bytes")
        times = (
            [f"{cost['seconds_a_run']:.3g}", f"{cost['mfu']:.1%}", f"{cost['chip_hours']:,.0f}"]
            if cost
            else ["–"] * 3
        )
        rows.append(
            [
                one["mesh"],
                "–" if needed is None else f"{needed / GIB:.2f}",
                *times,
                "; ".join(filter(None, ("fits" if one["fits"] else "", one["why"]))),
            ]
        )
    return rows


def write_ahead(path: Path, report: dict) -> None:
    """Writes report.json, README.md (the tables), index.html and its plots into `path`, each file whole, the page last."""
    # matplotlib and jinja2 load only when a report is written
    from instruct_jax.reports.marks import save

    path.mkdir(parents=True, exist_ok=True)
    parts = _parts(report)
    for part in parts:
        if part["plot"]:
            temporary = path / f".{part['plot']}"
            save(part["draw"], temporary, report)
            os.replace(temporary, path / part["plot"])
    _write(path / "report.json", json.dumps(report, indent=1) + "\n")
    _write(path / "README.md", text(report) + "\n")
    _write(path / "index.html", _page(report, parts))


def _parts(report: dict) -> list[dict]:
    """The page's sections: title, rows of a table, plot's file or None and what draws it."""
    if "meshes" in report:
        drawn = any(one["cost"] for one in report["meshes"])
        return [
            _part("Meshes, the best first", mesh_rows(report), "meshes.png" if drawn else None, draw_meshes)
        ]
    parts = [_part("Memory of a device", memory_rows(report), "memory.png", draw_memory)]
    if len(time_rows(report)) > 1:
        parts.append(_part("Predicted time of a run, at the least", time_rows(report), "time.png", draw_time))
        parts.append(_part("What a device sends in a run", sent_rows(report)))
    if len(collective_rows(report)) > 1:
        parts.append(_part("Collectives of a run", collective_rows(report)))
    if report.get("tried"):
        parts.append(_part(tried_title(report), tried_rows(report["tried"])))
    return parts


def _part(title: str, rows: list, plot: str | None = None, draw=None) -> dict:
    return {"title": title, "rows": rows, "plot": plot, "draw": draw}


def _page(report: dict, parts: list[dict]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    cost = cost_line(report["cost"]) if report.get("cost") else ""
    return environment.get_template("ahead.html").render(
        title=f"{report['experiment']}, compiled ahead",
        where=where(report),
        cost=cost,
        parts=parts,
        chosen=fields(report.get("chosen", {})),
        assumed=report["assumed"],
    )


def _bars(rows: list[tuple[str, dict[str, float]]], colours: dict[str, str], unit: str, stacked: bool):
    """Rows of bars: (name, {part: length}); stacked, or one under the other."""
    from matplotlib.figure import Figure

    from instruct_jax.reports.marks import WIDTH, row_names

    height = 0.9 + 0.5 * len(rows)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.26, 0.5 / height, 0.7, 1 - 0.9 / height))
    thick = 0.5 if stacked else 0.8 / len(colours)
    for place, (_, lengths) in enumerate(rows):
        left = 0.0
        for number, (part, colour) in enumerate(colours.items()):
            length = lengths.get(part, 0.0)
            shift = 0.0 if stacked else (number - (len(colours) - 1) / 2) * thick
            axes.barh(
                place + shift,
                length,
                thick,
                left=left,
                color=colour,
                label=part if place == 0 else None,
                zorder=2,
            )
            left += length if stacked else 0.0
    row_names(axes, [name for name, _ in rows])
    axes.set_xlabel(unit)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.36, 1.0), ncols=len(colours), frameon=False, fontsize=8.5
    )
    return figure, axes


def draw_memory(report: dict):
    """Bytes of a device by program, and how many it has."""
    parts = {"arguments": "#0072b2", "temporaries": "#d55e00", "beside it": "#7a7a7a"}
    keys = dict(zip(parts, ("argument_bytes", "temporary_bytes", "resident_bytes")))
    programs = report["programs"].items()
    rows = [
        (name, {part: (found.get(key) or 0) / GIB for part, key in keys.items()}) for name, found in programs
    ]
    figure, axes = _bars(rows, parts, "GiB of a device; the line: what there is", stacked=True)
    axes.axvline(next(found["hbm_bytes"] for _, found in programs) / GIB, color="#1d1d1f", lw=1.2, zorder=3)
    return figure


def draw_time(report: dict):
    """Least seconds of a run by products, memory and links."""
    parts = {"products": "#0072b2", "memory": "#009e73", "links": "#d55e00"}
    keys = dict(zip(parts, ("compute", "memory", "links")))
    names = {"loop": "decoding", "rest": "the rest"}
    rows = [
        (name if len(found["phases"]) == 1 else f"{name}: {names[phase]}", {part: seen[key] for part, key in keys.items()})
        for name, found in report["programs"].items() for phase, seen in found.get("phases", {}).items()
    ]  # fmt: skip
    return _bars(rows, parts, "predicted seconds of a run, at the least", stacked=False)[0]


def draw_meshes(report: dict):
    """Least seconds of a round by mesh; those that do not fit are grey."""
    rows = [one for one in report["meshes"] if one["cost"]]
    timed = [
        (one["mesh"], {"fits" if one["fits"] else "does not fit": one["cost"]["seconds_a_run"]})
        for one in rows
    ]
    return _bars(
        timed,
        {"fits": "#0072b2", "does not fit": "#b0b0b6"},
        "predicted seconds of a round, at the least",
        stacked=True,
    )[0]


def _write(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)
