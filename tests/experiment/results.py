"""Results of an experiment as they come from real data: seeds, groups, ablations, tests, hostile texts."""

import random

from notellm.experiment.results import Check, Claim, Example, Neighbour, Results, frame

HOSTILE = (
    "<script>document.title='broken'</script><img src=x onerror=alert(1)> & \"'> [x](http://evil.example) "
    "| `code` **bold** \u202eright to left\u202c \x1b[31m"
)
RECALL: dict[str, tuple[float, ...]] = {
    "popularity (of the test clicks)": (0.009, 0.118, 0.587, 0.008),
    "TF-IDF": (0.155, 0.329, 0.507, 0.076),
    "BM25": (0.160, 0.323, 0.505, 0.081),
    "NoteLLM untrained": (0.172, 0.384, 0.632, 0.086),
    "NoteLLM, contrastive only": (0.171, 0.409, 0.658, 0.085),
    "NoteLLM": (0.170, 0.405, 0.659, 0.085),
    "NoteLLM, hybrid": (0.183, 0.413, 0.661, 0.091),
}
LEARNT = ("NoteLLM", "NoteLLM, contrastive only", "NoteLLM, hybrid", "NoteLLM untrained", "BinLLM")
_RECALL_FIGURES = ("R@10", "R@100", "R@1000", "MRR")
_CATEGORY: dict[str, tuple[float, ...]] = {
    "most frequent category": (0.298, 0.031, 0.756, 0.013, 0.0),
    "vote of 20 train notes": (0.637, 0.331, 0.902, 0.078, 0.0),
    "linear classifier": (0.658, 0.428, 0.902, 0.064, 0.0),
    "NoteLLM": (0.668, 0.358, 0.898, 0.091, 0.005),
}
_CATEGORY_FIGURES = ("accuracy", "macro-F1", "top-5", "ECE", "ill-formed")
_TOPICS: dict[str, tuple[float, ...]] = {
    "most similar train note": (0.169, 0.126, 0.202),
    "vote of 20 train notes": (0.227, 0.112, 0.260),
    "NoteLLM": (0.383, 0.168, 0.424),
}
_RANK: dict[str, tuple[float, ...]] = {
    "item popularity": (0.6568, 0.6402),
    "BinMF": (0.7356, 0.6808),
    "text only": (0.6661, 0.6111),
    "codes only": (0.7356, 0.6818),
    "BinLLM": (0.7478, 0.6826),
}
_CATEGORIES = (
    "food",
    "travel",
    "fashion",
    "sport",
    "games",
    "film",
    "music",
    "books",
    "家居",
    "pets",
    "art",
    "",
)


def figure(table, method, name, mean, number, *, width=0.02, **columns):
    """A row of figures with an interval of some width."""
    learnt = method in LEARNT and table != "ablation"
    row = {"table": table, "method": method, "breakdown": "", "group": "all", "figure": name, "mean": mean}
    low, high = (None, None) if mean is None else (max(0.0, mean - width), min(1.0, mean + width))
    row |= {"low": low, "high": high, "count": number}
    row |= {"deviation": 0.0042 if learnt else None, "seeds": 3 if learnt else 1, "pool": None}
    return row | columns


def difference(table, method, against, name, value, p, comparisons, *, width=0.012, **columns):
    row = {"table": table, "method": method, "against": against, "figure": name, "difference": value}
    row |= {"low": value - width, "high": value + width, "p": p, "p_adjusted": min(1.0, 4 * p)}
    return row | {"comparisons": comparisons} | columns


def _p(value):
    """A small p for a large difference, for the sake of the example."""
    return 0.0002 if abs(value) > 0.02 else 0.0041 if abs(value) > 0.011 else 0.27


def _figures():
    rows = []
    pool = {"pool": 5766}
    for method, means in RECALL.items():
        for name, mean in zip(_RECALL_FIGURES, means, strict=True):
            rows.append(figure("recall", method, name, mean, 2167, **pool))
    for group, number, shift in (("low", 705, 0.035), ("high", 214, -0.08)):
        for method, means in RECALL.items():
            for name, mean in zip(_RECALL_FIGURES[:3], means, strict=False):
                place = {"breakdown": "exposure", "group": group, "width": 0.035}
                rows.append(figure("recall", method, name, max(0.0, mean + shift), number, **pool, **place))
    for i, category in enumerate(_CATEGORIES[:-1]):
        for method in ("TF-IDF", "BM25", "NoteLLM", "NoteLLM, hybrid"):
            mean = RECALL[method][1] + 0.02 * ((7 * i) % 11 - 5)
            place = {"breakdown": "category", "group": category, "width": 0.05}
            rows.append(figure("recall", method, "R@100", mean, 320 - 25 * i, **pool, **place))
    for method, means in _CATEGORY.items():
        for name, mean in zip(_CATEGORY_FIGURES, means, strict=True):
            rows.append(figure("writing", method, name, mean, 1000, width=0.028))
    for method, means in _TOPICS.items():
        for name, mean in zip(("F1", "BLEU-4", "RG-1"), means, strict=True):
            rows.append(figure("writing", method, name, mean, 812, width=0.022))
        rows.append(figure("writing", method, "topics", 3.4, 812, low=None, high=None))
    for method, means in _RANK.items():
        for name, mean, number in zip(("AUC", "UAUC"), means, (10_401, 1_230), strict=True):
            rows.append(figure("rank", method, name, mean, number, width=0.009))
            for group, shift, share in (("warm", 0.035, 0.6), ("cold user", -0.06, 0.4)):
                place = {"breakdown": "what training has seen", "group": group, "width": 0.015}
                rows.append(figure("rank", method, name, mean + shift, int(number * share), **place))
    return rows + _ablations()


def _ablations():
    rows = []
    sweeps = {
        "alpha": {"0": (0.406, 0.0), "0.001": (0.409, 0.51), "0.01": (0.405, 0.668), "0.1": (0.398, 0.69)}
        | {"1": (0.383, 0.702)},
        "topic_share": {"0": (0.404, 0.69), "0.2": (0.405, 0.668), "0.4": (0.403, 0.65), "1": (0.395, 0.0)},
        "batch": {"32": (0.389, 0.66), "64": (0.398, 0.665), "128": (0.405, 0.668), "256": (0.407, 0.66)},
        "dim": {"16": (0.341, 0.668), "64": (0.398, 0.668), "128": (0.405, 0.668), "256": (0.406, 0.668)},
    }
    for part, settings in sweeps.items():
        for setting, (recall, accuracy) in settings.items():
            place = {"part": part, "setting": setting}
            rows.append(figure("ablation", "NoteLLM", "R@100", recall, 2167, pool=5766, **place))
            rows.append(figure("ablation", "NoteLLM", "accuracy", accuracy, 1000, width=0.03, **place))
    words = {"default": (0.405, 0.668), "without CSFT": (0.408, 0.0), "without GCL": (0.352, 0.711)}
    words["mean of the states"] = (0.371, 0.62)
    for setting, (recall, accuracy) in words.items():
        place = {"part": "training", "setting": setting}
        rows.append(figure("ablation", "NoteLLM", "R@100", recall, 2167, pool=5766, **place))
        rows.append(figure("ablation", "NoteLLM", "accuracy", accuracy, 1000, width=0.03, **place))
    return rows


def _differences(figures):
    rows = []
    for against in ("TF-IDF", "NoteLLM, hybrid"):
        for method, means in RECALL.items():
            if method == against or (method, against) == ("NoteLLM, hybrid", "TF-IDF"):
                continue
            for name, mean, other in zip(_RECALL_FIGURES, means, RECALL[against], strict=True):
                rows.append(difference("recall", method, against, name, mean - other, _p(mean - other), 44))
    for method, means in _CATEGORY.items():
        if method != "linear classifier":
            value = means[0] - _CATEGORY["linear classifier"][0]
            rows.append(difference("writing", method, "linear classifier", "accuracy", value, _p(value), 3))
    for method, means in _RANK.items():
        if method != "BinMF":
            for name, mean, other in zip(("AUC", "UAUC"), means, _RANK["BinMF"], strict=True):
                rows.append(difference("rank", method, "BinMF", name, mean - other, _p(mean - other), 8))
    defaults = {"alpha": "0.01", "topic_share": "0.2", "batch": "128", "dim": "128", "training": "default"}
    reached = {(r["part"], r["setting"], r["figure"]): r["mean"] for r in figures if r["table"] == "ablation"}
    for (part, setting, name), mean in reached.items():
        if setting != defaults[part]:
            value = mean - reached[part, defaults[part], name]
            place = {"part": part, "setting": setting}
            rows.append(difference("ablation", "NoteLLM", "NoteLLM", name, value, _p(value), 15, **place))
    return rows


def _costs():
    rows = []
    for seed, seconds in enumerate((681.2, 656.4, 744.9)):
        row = {"table": "recall", "method": "NoteLLM", "seed": seed, "steps": 612, "seconds": seconds}
        rows.append(row | {"notes_per_second": 512.3 + seed, "peak_memory_mib": 1843.0})
    rows.append({"table": "recall", "method": "TF-IDF", "seconds": 3.2, "notes_per_second": 41_200.0})
    rows.append({"table": "rank", "method": "BinLLM", "seed": 0, "steps": 900, "seconds": 4211.0})
    return rows


def _curves():
    rows = []
    for method in ("NoteLLM", "NoteLLM, contrastive only"):
        for seed in range(3):
            for step in range(0, 601, 100):
                value = 0.36 + 0.07 * (1 - 0.99**step) + 0.004 * seed + 0.003 * ((step + seed) % 3)
                row = {"table": "recall", "method": method, "seed": seed, "step": step, "figure": "R@100"}
                rows.append(row | {"value": value + (0.006 if "only" in method else 0.0)})
    for setting in ("0", "0.01", "1"):
        for step in range(0, 601, 200):
            row = {"table": "ablation", "part": "alpha", "setting": setting, "method": "NoteLLM", "seed": 0}
            row |= {"step": step, "figure": "loss"}
            rows.append(row | {"value": 4.0 - step / 400 - float(setting) / 5})
    return rows


def _map(title):
    draws = random.Random(5)
    rows = []
    for i in range(600):
        at = min(int(draws.expovariate(0.35)), len(_CATEGORIES) - 1)
        row = {"note_id": f"n{i}", "title": title if i == 3 else f"Note {i}", "category": _CATEGORIES[at]}
        rows.append(row | {"x": draws.gauss(at % 4, 0.4), "y": draws.gauss(at // 4, 0.4)})
    return rows


def _reliability():
    rows = []
    for table, method, bend in (
        ("writing", "NoteLLM", 0.8),
        ("rank", "BinLLM", 0.95),
        ("rank", "BinMF", 0.7),
    ):
        for i in range(10):
            predicted = (i + 0.5) / 10
            row = {"table": table, "method": method, "predicted": predicted}
            rows.append(
                row | {"observed": 0.5 + bend * (predicted - 0.5), "count": 30 + 40 * abs(i - 5) ** 2}
            )
    return rows


def realistic(title="A weekend in the mountains", *, leak=False):
    """Results with every frame filled.

    Args:
        title: title of a query, of a neighbour and of a note on the map.
        leak: a check for leaks failed.
    """
    figures = _figures()
    results = Results("MicroLens, split by note")
    results.facts = {
        "data": "MicroLens-50k: 19,220 notes, 359,708 clicks of 50,000 users",
        "split": "by note, seed 7: 12,493 train, 961 valid, 5,766 test",
        "command": "notellm experiment data/microlens --seeds 3 --ablations all --output report",
        "versions": "notellm 0.4.0\npython 3.11.7\ntorch 2.13.0",
        "machine": "2 cores, 24 GiB memory, Linux",
        "time taken": "5 h 12 min",
    }
    results.frames = {
        "figures": frame("figures", figures),
        "differences": frame("differences", _differences(figures)),
        "costs": frame("costs", _costs()),
        "curves": frame("curves", _curves()),
        "map": frame("map", _map(title)),
        "reliability": frame("reliability", _reliability()),
    }
    found = "none of 5,766" if not leak else "3 of 5,766, such as n17"
    results.checks = [
        Check("a test note in the training pairs", not leak, f"{found} test notes are in 31,020 pairs"),
        Check("a test note among the train notes", True, "0 ids and 0 texts in both parts"),
    ]
    results.claims = [
        Claim(
            "Writing topics and categories (CSFT) helps recall",
            "R@100 84.02 with, 83.28 without",
            "R@100 40.5 with, 40.9 without; corrected p = 1.000",
            "cannot tell",
        ),
        Claim(
            "Training on co-clicks (GCL) is what recall comes from",
            "R@100 84.02 with, 75.38 without",
            "R@100 40.5 with, 35.2 without; corrected p < 0.001",
            "holds",
        ),
        Claim("A larger α improves recall", "R@100 83.51 at 0.1", "R@100 38.3 at 1", "does not hold"),
    ]
    near = [Neighbour(f"A day by the sea, part {i}", 0.913 - 0.031 * i, i == 1) for i in range(4)]
    near.append(Neighbour(title, 0.702, related=False))
    example = Example(title, "A day by the sea, part 1", 2.0, tuple(near))
    missed = Example("Sourdough for beginners", "旅行日记：在大理的三天", 2311.5, tuple(near[:3]))
    results.examples = {"found": [example, example], "missed": [missed, missed]}
    results.left_out = ["Rank with a pretrained backbone: no model was given (--rank-backbone)."]
    return results
