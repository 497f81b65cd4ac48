"""docs/results.md, written from the files in results/ and the cards of the networks we carry.

    python experiments/results_page.py

The experiments call it too, whenever they know something new. Nothing of the page is typed but what
was tried where a bar does not hold; what has not been measured says so.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from gemkit.app import formatting, zoo
from gemkit.app.comparison import FOUND, NARROW, Comparison
from gemkit.app.report import comparison, document
from gemkit.budget import format_count
from gemkit.files import read_json, write_text
from gemkit.records import read

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results", ROOT / "docs" / "results.md"
GOAL = (0.004, 0.036)
"""What the paper says its networks are more accurate by than those of other searches."""
Bar = tuple[str, str, str, str, str]
"""What was measured, the bar, the figure, whether it holds, where it is described."""
TRIED = {
    "search as good as random search at twice the trials, 10 trials": "the first ten trials are "
    "the first sample: nothing is learned before them",
    "WL kernel, 50,000 pairs of 10,000 graphs, depth 3": "it holds in most hours; a faster hash "
    "and other sizes of blocks changed little",
    "WL Gram matrix of 2,000 graphs, depth 2": "other sizes of blocks, other shares of labels "
    "multiplied densely, unstable sorts and tiled transposes; more than half of the time are the "
    "products and writing the matrix",
    "training a 30-node network": "fused optimiser steps, few operations a step, channels-last "
    "layout (kept); bfloat16 on the CPU, matrix products instead of 1x1 convolutions and "
    "torch.compile (no faster, or slower); ours also augments and averages weights, which the "
    "plain loop does not",
    "memory saved by the order of execution alone": "exact search; most cells have an order that "
    "is as good as the best already",
}


def figures(name: str) -> dict[str, Any]:
    """A results file; empty where there is none."""
    path = RESULTS / f"{name}.json"
    known: dict[str, Any] = read_json(path) if path.is_file() else {}
    return known


def page() -> str:
    """docs/results.md as text: whatever is there."""
    cards, bars = zoo.cards(), list(_bars())
    blocks: list[str] = [
        "# Results",
        (
            "Written by `python experiments/results_page.py` from the files in `results/` and the "
            "cards of the networks that come with gemkit. Every figure was measured here; none is "
            "copied from a paper. Each file in `results/` says on which machine and with which "
            "versions it was made; `make experiments` and `make experiments-gpu` make them anew."
        ),
        "## What was aimed for, and what was reached",
        document.table(("what", "bar", "measured", "holds", "described in"), bars),
    ]
    blocks += _tried([bar[0] for bar in bars if bar[3] == "no"])
    if (bench := RESULTS / "bench.json").is_file():
        blocks += _bench(read_json(bench))
    if compared := figures("compare"):
        command = "OMP_NUM_THREADS=1 python experiments/compare.py --workers 2"
        blocks += _comparison(compared, "Found networks beside known ones", command)
    if larger := figures("compare-40M"):
        blocks += _comparison(
            larger, "The same at 40 M MACs, on a GPU", larger.get("command", "make experiments-gpu")
        )
    if gpu := figures("gpu"):
        blocks += _gpu(gpu)
    if cards:
        blocks += _zoo(cards)
    if (fidelity := figures("fidelity")).get("correlation"):
        blocks += _proxy(fidelity)
    if (long := figures("long_trainings")).get("trainings"):
        blocks += _long_trainings(long)
    if (live := figures("search_live")).get("methods"):
        blocks += _live(live)
    if (deep := figures("deep_cells")).get("trainings"):
        blocks += _deep_cells(deep)
    if (photographs := figures("photographs")).get("runs"):
        blocks += _photographs(photographs)
    blocks += [
        "## Not run",
        (
            "Trainings of 200 epochs at 40 M MACs (goal: 95.0 % on CIFAR-10) and the comparison "
            "there with several seeds need hours of a GPU and were not run (`make "
            "experiments-gpu`); nor was `gemkit bench --provider cpu,cuda`."
        ),
    ]
    absent = [name for name in zoo.NAMES if name not in {card.name for card in cards}]
    if absent:
        blocks.append(
            f"Of the ready-made networks {', '.join(absent)}: "
            "`python experiments/zoo.py --only "
            f"{absent[0].removeprefix('gemnet-')}`."
        )
    return document.markdown(blocks)


def _tried(missed: Sequence[str]) -> list[str]:
    """What was tried in vain for the bars that were missed."""
    known = [name for name in TRIED if any(bar.startswith(name) for bar in missed)]
    if not known:
        return []
    return [
        ("What was tried where a bar does not hold:"),
        *((f"- {name}: {TRIED[name]}.") for name in known),
    ]


def _row(what: str, bar: str, figure: str, holds: bool | None, document: str) -> Bar:
    words = {True: "yes", False: "no", None: "goal" if bar.startswith("goal") else ""}
    return what, bar, figure, words[holds], f"[{document}]({document}.md)"


def _bars() -> Iterator[Bar]:
    """One row for each bar that a results file speaks about."""
    yield from _embedding_bars(figures("embedding"))
    yield from _table_bars(figures("ablation-strategies"), figures("ablation-latency"))
    yield from _search_bars(figures("search_quality"), figures("search_live"))
    yield from _optimizer_bars(figures("optimize").get("summary", {}))
    yield from _latency_bars(
        figures("latency").get("sizes", {}), figures("deliveries").get("summary")
    )
    yield from _gpu_bars(figures("gpu"))
    yield from _photograph_bars(figures("photographs").get("runs", []))
    yield from _page_bars(figures("page"))


def _embedding_bars(found: dict[str, Any]) -> Iterator[Bar]:
    goals = {"all_pairs": 0.98, "equal_counts": 0.80, "mutants": 0.90}
    for part, goal in goals.items() if found else ():
        value = found["encoder"]["agreement"]["trained encoder"][part]["mean"]
        yield _row(
            f"Spearman of embedding cosine and WL similarity, {part.replace('_', ' ')}",
            f"goal {goal:.2f}",
            f"{value:.3f}",
            value >= goal,
            "embedding",
        )


def _table_bars(searches: dict[str, Any], device: dict[str, Any]) -> Iterator[Bar]:
    if searches:
        ours = searches["strategies"]["nasgem"]
        median, regret = ours["median_queries_to_best"], ours["regret_after"]["100"]
        tau = ours["kendall_tau"]["100"]
        table = f"NAS-Bench-201, {searches['seeds']} seeds"
        yield _row(
            f"{table}: queries to the best cell, median",
            "at most 60",
            "not found" if median is None else f"{median:g}",
            median is not None and median <= 60,
            "ablation",
        )
        yield _row(
            f"{table}: regret after 100 queries",
            "at most 0.02 points",
            f"{regret:.3f}",
            regret <= 0.02,
            "ablation",
        )
        yield _row(
            f"{table}: Kendall tau from 100 cells",
            "0.75 (goal 0.80)",
            f"{tau:.3f}",
            tau >= 0.75,
            "ablation",
        )
    if device:
        pi = device["raspi4_latency"]
        rank, within = pi["spearman"], pi["within_10_percent"]
        name = f"latency on a Raspberry Pi 4 from 100 samples, {pi['seeds']} seeds"
        yield _row(f"{name}: Spearman", "0.95", f"{rank:.3f}", rank >= 0.95, "ablation")
        yield _row(
            f"{name}: within 10 %",
            "57 %",
            formatting.percent(within, 0),
            within >= 0.57,
            "ablation",
        )


def _search_bars(pool: dict[str, Any], live: dict[str, Any]) -> Iterator[Bar]:
    for trials, one in pool["strategies"]["nasgem"]["after"].items() if pool else ():
        low, high = one["random_needs_interval"]
        if one["random_at_twice"] is None or None in (low, high):
            continue
        yield _row(
            f"search as good as random search at twice the trials, {trials} trials",
            f"{2 * int(trials)} random trials",
            f"{one['random_needs']:.0f} ({low:.0f} to {high:.0f})",
            bool(one["above_random_at_twice_interval"][0] > 0),
            "search",
        )
    for name, control, least in (
        ("the best known network", _best(live, "known:"), 1.0),
        ("the best hand-made cell", _best(live, "by hand"), 0.5),
    ):
        if control is None:
            continue
        mean, interval = (
            control["nasgem_better_by"]["mean"],
            control["nasgem_better_by"]["interval"],
        )
        yield _row(
            f"found networks above {name}: {_live_task(live)}, {live['searches']} searches",
            f"{least:.1f} points, interval above 0",
            f"{100 * mean:+.2f} points ({_points(interval)})",
            100 * mean >= least and interval is not None and interval[0] > 0,
            "search",
        )


def _best(live: dict[str, Any], begin: str) -> dict[str, Any] | None:
    """The control with such a name that reached most."""
    found = [one for name, one in live.get("methods", {}).items() if name.startswith(begin)]
    return max(found, key=lambda one: one["accuracy"], default=None)


def _live_task(live: dict[str, Any]) -> str:
    task = live["task"]
    return (
        f"{task['images']:,} images, {task['epochs']} epochs, {format_count(task['max_macs'])} MACs"
    )


def _points(interval: list[float] | None) -> str:
    return (
        "one search"
        if interval is None
        else "{:+.2f} to {:+.2f}".format(*(100 * end for end in interval))
    )


def _live(live: dict[str, Any]) -> list[str]:
    rows = []
    for name, one in live["methods"].items():
        apart = one.get("nasgem_better_by")
        better = corrected = ""
        if apart is not None:
            better = f"{100 * apart['mean']:+.2f} ({_points(apart['interval'])})"
            corrected = _points(apart["corrected"])
        rows.append(
            (
                name,
                f"{100 * one['accuracy']:.2f} %",
                ", ".join(f"{100 * accuracy:.2f}" for accuracy in one["accuracies"]),
                ", ".join(map(str, one["networks"])) if "known" not in name else "",
                better,
                corrected,
            )
        )
    return [
        "## Searches beside controls",
        (
            f"{live['searches']} searches a method, each of {live['task']['trials']} trials of "
            f"{live['task']['proxy_epochs']} epochs; the best of each trained in full "
            f"({_live_task(live)}; CIFAR-10, JPEG q75 copy) and judged on 5,000 other training "
            "images, which no trial saw: these alone leave an accuracy uncertain by 1.2 points, "
            "alike for all. Differences seed by seed, with 95 % intervals over the searches "
            "(Student's t), also corrected for the number of methods (Bonferroni)."
        ),
        document.table(
            ("method", "accuracy", "each", "nodes", "NASGEM better by", "corrected"), tuple(rows)
        ),
        document.code(
            "OMP_NUM_THREADS=1 python experiments/search_live.py --data npz:cifar10_jpeg.npz "
            f"--max-macs 3M --images 10000 --epochs 20 --searches {live['searches']} --workers 1 "
            '--methods nasgem "by hand" known:mobilenet_v3_small'
        ),
    ]


def _optimizer_bars(found: dict[str, Any]) -> Iterator[Bar]:
    for kind, least in (("concat", 1.1), ("sum", 1.3)):
        if (one := found.get("latency", {}).get(f"32x32 {kind}")) is None:
            continue
        yield _row(
            f"optimised against plain export, {kind}, {one['networks']} networks, median",
            f"{least}",
            f"{one['median_speedup']:.2f}",
            one["median_speedup"] >= least,
            "optimizer",
        )
        yield _row(
            f"slowest of them ({kind}), measured again",
            "0.98",
            f"{one['least_speedup']:.2f}",
            one["least_speedup"] >= 0.98,
            "optimizer",
        )
    for kind in ("concat", "sum"):
        if (one := found.get("memory", {}).get(f"32x32 {kind}")) is None:
            continue
        yield _row(
            f"peak activation memory saved, {kind}, {one['networks']} networks, median",
            "20 %",
            f"{formatting.percent(one['median_reduction'], 0)}, by order alone "
            f"{formatting.percent(one['median_reduction_by_order_alone'], 0)}",
            one["median_reduction"] >= 0.2,
            "optimizer",
        )


def _latency_bars(sizes: dict[str, Any], delivered: dict[str, Any] | None) -> Iterator[Bar]:
    for size, one in sizes.items():
        again, short = one["repeated_p50_ms"], size.rpartition("x")[0]
        yield _row(
            f"p50 measured again within 5 %, beside two neighbours, {short}",
            "90 %",
            formatting.percent(again["within_5_percent"], 0),
            again["within_5_percent"] >= 0.9,
            "deployment",
        )
        predicted, floor = one["predicted_of_others_levelled"], one["repeated_levelled"]
        share, most = predicted["within_10_percent"], floor["within_10_percent"]
        yield _row(
            f"latencies predicted within 10 %, {short}",
            "5 points less than a second measurement",
            f"{formatting.percent(share, 0)}; a second measurement {formatting.percent(most, 0)}",
            share >= most - 0.05 - 1e-9,
            "deployment",
        )
        yield _row(
            f"Spearman of predicted latencies, {short}",
            "0.97",
            f"{one['predicted']['spearman']:.3f}",
            one["predicted"]["spearman"] >= 0.97,
            "deployment",
        )
    if delivered:
        over = delivered["over_by_more_than_3_percent"]
        yield _row(
            f"{delivered['delivered']} networks delivered under a limit of time, measured again",
            "none over by 3 %",
            f"{over} over; {formatting.percent(delivered['median_of_the_budget'], 0)} of the limit "
            "used in the median",
            over == 0,
            "deployment",
        )


def _gpu_bars(found: dict[str, Any]) -> Iterator[Bar]:
    for name, entry in found.get("networks", {}).items():
        own = [row for row in entry["rows"] if row["steps"].startswith("recorded (as")]
        best = max(own, key=lambda row: row["images_per_second"])
        rate = best["images_per_second"]
        yield _row(
            f"training on {found['machine']['gpu']}, {name}, {entry['macs'] / 1e6:.0f} M MACs",
            "20,000 images/s",
            f"{rate:,.0f} at batch {best['batch']}",
            rate >= 20_000,
            "training",
        )


def _photograph_bars(runs: list[dict[str, Any]]) -> Iterator[Bar]:
    whole = [one for one in runs if one["training_images"] > 3000]
    for taught, bar in ((False, 0.79), (True, 0.83)):
        found = [one for one in whole if (one["teacher"] is not None) == taught]
        if not found:
            continue
        mean = sum(one["accuracy"] for one in found) / len(found)
        minutes = ", ".join(f"{one['minutes']:.1f}" for one in found)
        yield _row(
            f"photographs of clothing, {'with' if taught else 'without'} a teacher, 10 M MACs, "
            f"test accuracy, mean of {formatting.number(len(found), 'run')}",
            f"{formatting.percent(bar, 0)} in {40 if taught else 8} minutes",
            f"{formatting.percent(mean)} in {minutes} minutes",
            mean >= bar and all(one["minutes"] <= (40 if taught else 8) for one in found),
            "training",
        )
    files = [
        (one["fp32_together"], one["int8_together"])
        for run in whole
        for one in run["networks"]
        if "int8_together" in one
    ]
    if files:
        loss = sum(fp32 - int8 for fp32, int8 in files) / len(files)
        yield _row(
            f"int8 of {formatting.number(len(files), 'network')} for photographs: points lost on "
            f"{whole[0]['images_together']} images, mean",
            "0.5",
            f"{100 * loss:.2f}",
            loss <= 0.005,
            "training",
        )


def _photographs(found: dict[str, Any]) -> list[str]:
    blocks: list[str] = [
        "## Photographs: with a teacher and without",
        (
            "Photographs of clothing of ten kinds at 64x64 pixels, `gemkit run --max-macs 10M`, "
            "one run a row. The recommended network is the best on the hold-out; accuracies are on "
            f"{found['runs'][0]['test_images']} test photographs, which judge to about 4 points. "
            "Minutes are from the start until the last file was written; other work shared the "
            "machine, more of it in later runs."
        ),
        document.table(
            ("teacher", "its accuracy", "seed", "recommended", "accuracy", "others", "minutes"),
            [_photographs_run(one) for one in found["runs"]],
        ),
    ]
    files = [
        (
            f"{one['id']}, {'without' if run['teacher'] is None else 'with'} a teacher",
            formatting.percent(one["fp32_together"]),
            formatting.percent(one["int8_together"]),
        )
        for run in found["runs"]
        for one in run["networks"]
        if "int8_together" in one
    ]
    if files:
        blocks += [
            (
                "Files of static quantisation, judged on hold-out and test photographs together "
                f"({found['runs'][0]['images_together']}):"
            ),
            document.table(("network", "fp32", "int8"), files),
        ]
    rows = [
        (
            one["name"],
            f"{one['steps']:,} of {one['recipe']['batch_size']}",
            formatting.percent(one["accuracy"]),
            f"{one['processor_seconds']:.0f} s",
        )
        for one in sorted(found["trainings"], key=lambda one: -float(one["accuracy"]))
    ]
    teachers = [
        (
            f"{name}, {one['side']} pixels",
            formatting.percent(one["accuracy"]),
            formatting.percent(one["agrees"]),
            formatting.percent(one["agrees_in_views"]),
        )
        for known in found["teachers"].values()
        for name, one in known.items()
    ]
    if teachers:
        blocks += [
            (
                f"{found['task']}. EfficientNet-Lite0, fine-tuned on the others, and how often it "
                "agrees with the labels that it learned from, in whole photographs and in crops:"
            ),
            document.table(("teacher", "accuracy", "agrees, whole", "in crops"), teachers),
        ]
    if rows:
        blocks += [
            (
                "The same folds: a cell of one separable convolution of 9.6 M MACs, one training "
                "each. `labels`: without a teacher, the recipe `standard` but for what the name "
                "says; else `taught`. `mixup` and `augment` (random changes of each image) were "
                "settings of recipes then."
            ),
            document.table(("training", "steps", "accuracy", "processor time"), rows),
        ]
    return [
        *blocks,
        document.code("OMP_NUM_THREADS=1 python experiments/photographs.py --photographs FOLDER"),
    ]


def _photographs_run(run: dict[str, Any]) -> tuple[str, ...]:
    teacher = run["teacher"]
    best = next(one for one in run["networks"] if one["id"] == run["recommended"])
    others = [one for one in run["networks"] if one["id"] != run["recommended"]]
    return (
        formatting.NONE if teacher is None else teacher["name"],
        formatting.NONE if teacher is None else formatting.percent(teacher["accuracy"]),
        str(run["seed"]),
        f"{best['id']} ({best['kind']}, {format_count(best['macs'])} MACs)",
        formatting.percent(best["accuracy"]),
        ", ".join(f"{one['id']} {formatting.percent(one['accuracy'])}" for one in others),
        f"{run['minutes']:.1f}",
    )


def _page_bars(found: dict[str, Any]) -> Iterator[Bar]:
    if not found:
        return
    one, many = found["one_visitor"], found["many_visitors"]
    opening, selection = one["opening_seconds_median"], one["selection_seconds_median"]
    yield _row(
        f"page of {one['points']:,} candidates: opening",
        "2 s",
        f"{opening:.2f} s",
        opening < 2,
        "page",
    )
    yield _row("selecting a network", "0.3 s", f"{selection:.2f} s", selection < 0.3, "page")
    p95 = many["selection_seconds_p95"]
    yield _row(
        f"{many['visitors']} visitors, {many['seconds'] / 60:.0f} minutes: p95 of a selection",
        "2 s, no error",
        f"{p95:.2f} s, {formatting.number(many['errors'], 'error')}, memory "
        f"{formatting.size(many['memory_bytes_half'])}, then "
        f"{formatting.size(many['memory_bytes_end'])}",
        p95 < 2 and not many["errors"],
        "page",
    )


def _bench(found: dict[str, Any]) -> list[str]:
    """The table of `make bench` as it was when it was last kept."""
    about = {**found["machine"], **found["versions"]}
    words = {True: "yes", False: "no", None: ""}

    def figure(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

    return [
        "## Beside references, in one run",
        (
            "One run with nothing beside, of "
            + ", ".join(f"{name} {value}" for name, value in about.items() if value)
            + "."
        ),
        document.table(
            ("what", "ours", "reference", "unit", "ratio", "bar", "holds", "note"),
            [
                (
                    row["name"],
                    *(figure(row[key]) for key in ("ours", "reference")),
                    row["unit"],
                    *(figure(row[key]) for key in ("ratio", "bar")),
                    words[row["holds"]],
                    row["note"],
                )
                for row in found["rows"]
            ],
        ),
        *_tried([row["name"] for row in found["rows"] if row["holds"] is False]),
        document.code("make bench"),
    ]


def _comparison(result: dict[str, Any], heading: str, command: str) -> list[str]:
    found = read(Comparison, result, heading)
    return [
        f"## {heading}",
        (comparison.summary(found)),
        document.table(comparison.HEADS, comparison.table_rows(found)),
        (comparison.notes(found)),
        (
            "The search draws its proxy images (a tenth) from all 50,000 training images, also "
            "where the networks are then trained on fewer. It never sees a test image. "
            + (
                f"The found network and random cells got {found.share:g} of the budget, the "
                "others all of it."
                if found.config["run"] is None
                else "The found network is that of a search of its own, random cells cost as much."
            )
        ),
        "### Against what was aimed for",
        document.table(("bar", "found here", "holds"), _comparison_bars(found)),
        "### How to repeat it",
        document.code(command),
        (comparison.made(found)),
        *([(result["note"])] if "note" in result else []),
    ]


def _gpu(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"{name}, {entry['macs'] / 1e6:.1f} M MACs",
            row["steps"],
            str(row["batch"]),
            f"{row['images_per_second']:,.0f}",
            formatting.percent(row["images_per_second"] / entry["limit"], 1),
            row.get("note", ""),
        )
        for name, entry in found["networks"].items()
        for row in entry["rows"]
    ]
    begun = [
        (row["steps"], ("first", "second", "third", "third again")[at % 4], f"{row['seconds']:.1f}")
        for at, row in enumerate(found.get("first", {"rows": ()})["rows"])
    ]
    profiles = [
        (
            f"Where the GPU's time goes, {name}, batch 512: "
            + ", ".join(
                f"{kind} {formatting.percent(share, 0)}"
                for kind, share in entry["profile"]["shares"].items()
                if share >= 0.005
            )
            + "."
        )
        for name, entry in found["networks"].items()
        if "profile" in entry
    ]
    about = {**found["machine"], **found["versions"]}
    return [
        "## Training on a GPU",
        (
            f"{found['machine']['gpu']}, which copies "
            f"{found['bytes_per_second'] / 1e12:.2f} TB/s; bfloat16, images of 32x32, the full "
            "recipe's augmentation. The share is that of what this bandwidth allows where a step "
            "moves three times what its convolutions read and write. One run, made before whole "
            "steps were recorded."
        ),
        document.table(
            ("network", "steps", "batch", "images/s", "share of the memory's limit", "note"), rows
        ),
        *profiles,
        (
            "Seconds of the first 20 steps of networks of thirty nodes, one after the other in one "
            "process: the libraries' kernels are loaded by the first, which takes most of the time."
        ),
        document.table(("steps", "network", "seconds"), begun),
        (
            "Many trainings to their end, 24 side by side in threads of one process "
            "(`experiments/long_trainings.py`, batch 256, 5 M MACs): 32 networks saw 19.2 M images "
            "in 261 seconds, 73,600 a second, the first minute of preparing included."
        ),
        document.code("python experiments/gpu.py"),
        (", ".join(f"{name} {value}" for name, value in about.items() if value)),
    ]


def _zoo(cards: Sequence[zoo.Card]) -> list[str]:
    blocks: list[str] = [
        "## Ready-made networks",
        (
            "Accuracy of the ONNX file by onnxruntime alone on the test images; the interval is "
            "that of so many images. `gemkit export zoo:NAME --out FILE.onnx` writes one."
        ),
        document.table(zoo.HEADS, [zoo.row(card) for card in cards]),
    ]
    for card in cards:
        text = f"{card.name}: {card.search['text']} Trained {card.training['text']}."
        blocks += [(text), document.code(card.command)]
    return blocks


def _proxy(fidelity: dict[str, Any]) -> list[str]:
    of, shown = fidelity["settings"], {"full": "full", "again": "full, another seed"}
    rows = [
        (
            shown.get(row["training"], f"{row['training']}, proxy"),
            str(row["cells"]),
            f"{row['spearman']:.2f}",
            "{:.2f} to {:.2f}".format(*row["interval"]),
            f"{row['kendall_tau']:.2f}",
        )
        for row in fidelity["correlation"]
    ]
    blocks: list[str] = [
        "## Short trainings against full ones",
        (
            f"Rank correlation over random cells within {of['budget']['macs']:,} MACs between the "
            "accuracy of a search's trial (validation part of its tenth of the training images) "
            f"and that of a full training ({of['full']['epochs']} epochs on {of['images']:,} "
            f"images, judged on {of['test_images']:,} test images, another seed); {of['data']}. "
            "The interval is a bootstrap's over cells (95 %). Two full trainings of the same cells "
            "agree as far as the row `full, another seed` says, where it is there: no short one "
            "can be expected to do better."
        ),
        document.table(("epochs", "cells", "Spearman", "95 % interval", "Kendall tau"), rows),
    ]
    if fidelity["compared"]:
        ways = [
            (
                f"all for {formatting.number(row['epochs'], 'epoch')}"
                + (f", the best {row['promoted']} for 9" if row["promoted"] else ""),
                f"{100 * row['cost']:.0f} %",
                f"{100 * row['accuracy']:.2f}",
            )
            for row in fidelity["compared"]
        ]
        blocks += [
            (
                "What a search of 16 such cells finds by them: the time it takes, and the full "
                "accuracy of the cell it chooses (mean of many drawn searches)."
            ),
            document.table(("trials", "time", "accuracy"), ways),
        ]
    return [*blocks, document.code("OMP_NUM_THREADS=1 python experiments/fidelity.py --workers 2")]


def _long_trainings(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            one["network"] + (f": {one['about']}" if one["about"] else ""),
            formatting.percent(one["accuracy"]),
            formatting.count(one["macs"]),
            formatting.count(one["params"]),
        )
        for one in sorted(found["trainings"], key=lambda one: -float(one["accuracy"]))
        if one["round"] not in ("proxy", "ten")
    ]
    blocks: list[str] = [
        "## Trainings to their end: deep cells, hand-made cells, known networks",
        (
            f"{found['task']}, one training each, {found['beside']} side by side on one "
            f"{found['machine']['gpu']}. The widths of pairs, hand-made cells and known networks "
            "are rounded as delivered ones are, which leaves up to a third of the MACs unused in "
            "the deepest. `pair N`: a random cell and a skeleton, drawn before any training."
        ),
        document.table(("network", "accuracy", "MACs", "params"), rows),
    ]
    agreement = [
        (
            str(row["epochs"]),
            str(row["pairs"]),
            f"{row['spearman']:.2f}",
            "{:.2f} to {:.2f}".format(*row["interval"]),
            f"{row['better_half']:.2f}",
            f"{row['partial']:.2f}",
        )
        for row in found["correlation"]
    ]
    if agreement:
        blocks += [
            (
                "The same pairs as a search tries them (3,750 of these images, the proxy's recipe, "
                "judged on the same 10,000): Spearman's correlation with the end, over all pairs, "
                "over those that end in the better half, and given width and number of nodes."
            ),
            document.table(
                ("epochs", "pairs", "Spearman", "95 % interval", "better half", "partial"),
                agreement,
            ),
        ]
    return [*blocks, document.code("python experiments/long_trainings.py")]


def _deep_cells(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            one["name"],
            formatting.percent(one["accuracy"]),
            formatting.count(one["macs"]),
            formatting.count(one["params"]),
            f"{one['processor_seconds']:.0f} s",
        )
        for one in sorted(found["trainings"], key=lambda one: -float(one["accuracy"]))
    ]
    recipe = found["recipe"]
    hours = sum(one["processor_seconds"] for one in found["trainings"]) / 3600
    return [
        "## Forms of cells, and skeletons around them",
        (
            f"{found['task']}; {recipe['epochs']} epochs, batch {recipe['batch_size']}, one "
            f"training each, {hours:.2f} core-hours in all. Each network is as wide as 3 M MACs "
            "allow, in steps of a quarter of a channel. A name says the cell (`random12.9`: twelve "
            "nodes, the tenth drawn; `sum:` for sums) and what differs from today's cells "
            "(`experiments/deep_cells.py`, `Form`) and from the preset skeleton (`Frame`: stem of "
            "kernel, stride, share of the width; stages of factor, cells)."
        ),
        document.table(("network", "accuracy", "MACs", "params", "processor time"), rows),
        document.code("OMP_NUM_THREADS=1 nice -n 19 python experiments/deep_cells.py"),
    ]


def _comparison_bars(result: Comparison) -> list[tuple[str, str, str]]:
    """The bars of the design that this comparison speaks about."""
    networks = {entry.id: entry for entry in result.networks}
    rows = []
    for entry, ours in product(networks.values(), (FOUND, NARROW)):
        better = entry.found_better_by if ours == FOUND else entry.narrow_better_by
        wanted = ("differentiable", "random") if ours == FOUND else ("differentiable",)
        if better is None or entry.kind not in wanted:
            continue
        found = networks[ours]
        text = f"{comparison.points(better.mean)} points"
        if better.interval:
            text += " ({} to {})".format(*(comparison.points(end) for end in better.interval))
        if entry.kind == "random":
            bar = "above random cells of equal cost with 95 % confidence"
            holds = bool(better.interval and better.interval[0] > 0)
        else:
            low, high = (comparison.points(end) for end in GOAL)
            bar = (
                f"{ours}: goal {low} to {high} points, at least the lower, against {entry.id} "
                "with at least 11 % fewer MACs"
            )
            fewer = 1 - found.macs / entry.macs
            text += (
                f", {_less(found.macs, entry.macs)} MACs, "
                f"{_less(found.params, entry.params)} parameters"
            )
            holds = better.mean >= GOAL[0] and fewer >= 0.11
        sure = better.interval and better.interval[0] > 0
        rows.append((bar, text, ("yes" if sure else "in the mean alone") if holds else "no"))
    return rows


def _less(own: float, other: float) -> str:
    """`29 % fewer`, or `4 % more`."""
    share = 100 * (own / other - 1)
    return f"{abs(share):.0f} % {'more' if share > 0 else 'fewer'}"


def write() -> None:
    """Write docs/results.md from all that is there."""
    write_text(PAGE, page())


if __name__ == "__main__":
    sys.exit(write())
