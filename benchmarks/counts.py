"""Operations of the hot paths, counted instead of timed, beside the committed ones: `make bench-quick`.

    python -m benchmarks.counts            # ends with an error if a path needs more operations than before
    python -m benchmarks.counts --accept   # writes the counts of now as the ones to compare with

A floating-point operation is an addition or a multiplication in a matrix product or in attention, as
`torch.utils.flop_counter` counts them. They depend on the inputs and on the code alone, not on the machine,
so that a change that computes a token or a layer too many shows on every machine within a minute. Notes,
clicks and models are those of the sample world and the tiny backbone. Below each count stands that of the
plain way, if there is one: every prompt whole.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from benchmarks.common import arguments, table, write_results
from benchmarks.stepwise import StepwiseTraining
from notellm.data.impressions import click_histories, impressions_from_clicks
from notellm.data.sample_world import sample_world
from notellm.data.split import split_impressions
from notellm.files import read_json
from notellm.rank.codes.fit import fit_codes
from notellm.rank.codes.options import CodeOptions
from notellm.rank.collaborative.options import TrainingOptions
from notellm.rank.model import BinLLM
from notellm.rank.scorer import Ranker
from notellm.recall.model import NoteLLM

#: More operations than this share of the committed ones are an error.
ALLOWED = 1.01

_NAME = "counts"
# The attention of the CPU is not among those that torch counts.
_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (  # noqa: SLF001
        sdpa_flop(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (  # noqa: SLF001
        lambda gradient, query, key, value, *_, **__: sdpa_backward_flop(gradient, query, key, value)
    ),
}


def count(work: Callable[[], object]) -> int:
    """Return the floating-point operations of some work."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        work()
    return int(counter.get_total_flops())


def counts() -> dict[str, int]:
    """Return the operations of each path."""
    world = sample_world(notes=300, users=150, clicks=4_000, bots=0)
    model = NoteLLM.from_corpus(world.notes, clicks=world.clicks)
    found: dict[str, int] = {}
    with TemporaryDirectory() as folder:
        for name, chunk in (("training step, 32 pairs", None), ("the same, gradients cached by 16", 16)):
            training = StepwiseTraining(
                model,
                world,
                Path(folder),
                lora=False,
                upper=None,
                stored=False,
                pairs=32,
                steps=1,
                chunk=chunk,
            )
            found[name] = count(training.step)
    found["embedding, 300 notes"] = count(lambda: model.encode(world.notes))
    some = world.notes.slice(0, 50)
    model.tag(some)  # the notes that speak for names are embedded at the first call
    found["tagging, 50 notes"] = count(lambda: model.tag(some))

    train, valid, _ = split_impressions(impressions_from_clicks(world.clicks))
    few = CodeOptions(penalties=(17.0,), training=TrainingOptions(epochs=2, progress=False))
    codes = fit_codes(train, valid, few)
    histories = click_histories(world.clicks)
    ranker = Ranker(BinLLM.from_corpus(world.notes, train), codes, world.notes, histories)
    user = max(histories, key=lambda each: (len(histories[each]), each))
    for size in (1, 10, 100):
        candidates = world.notes["note_id"].to_pylist()[:size]
        for shared in (True, False):
            name = f"ranking, {size} candidates" + ("" if shared else ", every prompt whole")
            found[name] = count(partial(ranker.scores, user, candidates, shared=shared))
    return found


def main() -> None:
    parser = arguments("Operations of the hot paths beside the committed ones.")
    parser.add_argument("--accept", action="store_true", help="write the counts of now")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = counts()
    if chosen.accept:
        rows = [[name, f"{value / 1e6:,.1f}"] for name, value in found.items()]
        body = [table(["path", "million operations"], rows)]
        write_results(chosen.results, _NAME, "Operations of the hot paths", body, {"counts": found})
        return
    committed: dict[str, int] = read_json(chosen.results / f"{_NAME}.json")["counts"]
    rows, worse = [], []
    for name, value in found.items():
        before = committed.get(name)
        rows.append(
            [
                name,
                "" if before is None else f"{before / 1e6:,.1f}",
                f"{value / 1e6:,.1f}",
                "new" if before is None else f"{100 * (value / before - 1):+.1f} %",
            ]
        )
        if before is None or value > ALLOWED * before:
            worse.append(name)
    print(table(["path", "million operations before", "now", "change"], rows))
    if worse:
        sys.exit(
            f"\n{len(worse)} of {len(found)} paths need more operations than before, or are new: "
            f"{'; '.join(worse)}. If that is wanted:  python -m benchmarks.counts --accept"
        )


if __name__ == "__main__":
    main()
