"""Draws the plots of docs/benchmarks.md from results/latest.json; runs in `.venv-bench`, which has matplotlib."""

import json
import statistics
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

_ROOT = Path(__file__).resolve().parents[1]
_IMAGES = _ROOT / "docs" / "images"
_OURS, _THEIRS = "#1f6f8b", "#b8b8b8"


def bars(name: str, title: str, heights: dict[str, float], ours: set[str], *, log: bool = False) -> None:
    """Draw horizontal bars with their numbers."""
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(heights) + 1.2))
    drawn = axes.barh(list(heights), list(heights.values()), color=[_OURS if n in ours else _THEIRS for n in heights])
    axes.bar_label(drawn, fmt="{:,.4g}", padding=3)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    if log:
        axes.set_xscale("log")
    figure.tight_layout()
    figure.savefig(_IMAGES / f"{name}.svg", metadata={"Date": None})


def main() -> None:
    """Draw all."""
    mpl.rcParams["svg.hashsalt"] = "nitro-signer"  # the same figures give the same file
    results = json.loads((_ROOT / "benchmarks" / "results" / "latest.json").read_text())
    medians = {name: statistics.median(values) for name, values in results["per_cpu_second"].items()}
    _IMAGES.mkdir(exist_ok=True)
    bars(
        "jobs",
        "Jobs per CPU-second of the worker: no-ops of the peers, verified signatures of ours",
        {
            "celery": medians["celery noop"],
            "dramatiq": medians["dramatiq noop"],
            "taskiq": medians["taskiq noop"],
            "plain loop": medians["plain noop"],
            "ours, records cold": medians["ours cold"],
            "ours, single jobs": medians["ours single"],
            "ours, bulk jobs": medians["ours bulk"],
        },
        {"ours, records cold", "ours, single jobs", "ours, bulk jobs"},
    )
    bars(
        "enclave",
        "Per CPU-second of an enclave process",
        {
            "bare coincurve": medians["bare curve"],
            "signatures, warm keys": medians["enclave warm"],
            "signatures, cold keys": medians["enclave cold"],
            "new keys": medians["enclave generate"],
        },
        {"signatures, warm keys", "signatures, cold keys", "new keys"},
        log=True,
    )
    bills = {bill["name"]: bill["total"] for bill in results["dollars_per_million_signatures"]}
    ours = {name for name in bills if name.startswith(("bulk", "single"))}
    bars("cost", "Dollars of AWS calls per million signatures", bills, ours, log=True)


if __name__ == "__main__":
    main()
