"""The cards of trained models and rankers, which they carry as their README.md."""

from typing import Any

from notellm.rank.collaborative.kinds import KINDS


def model_card(name: str, record: dict[str, Any]) -> str:
    """Return the card of a NoteLLM in Markdown, with the front matter that model hubs read.

    Args:
        name: name of the model.
        record: record of the model.
    """
    config, data, metrics = record["config"], record["data"], record["metrics"]
    notes, pairs = data["notes"], data["pairs"] or {"rows": 0, "fingerprint": "none"}
    measured = "\n".join(
        f"| {figure} | {_cell(metrics['untrained'].get(figure))} | {value:.4f} |"
        for figure, value in metrics.get("validation", {}).items()
    )
    results = (
        f"| validation | untrained | trained |\n|---|---:|---:|\n{measured}\n"
        if measured
        else "No validation notes were held out.\n"
    )
    options = "\n".join(f"| {option} | {value} |" for option, value in config.items())
    teacher = f", which learnt from `{config['teacher']}` as well" if config.get("teacher") else ""
    start = data.get("start")
    went_on = f", going on from the trained model `{start['fingerprint']}`" if start else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [notellm, recommendation, item-to-item]
---

# {name}

A NoteLLM (arXiv 2403.01744): it compresses a note into one vector of {config["dim"]} dimensions whose
neighbours are the notes people open together, and writes the note's topics and category. Trained on
{notes["rows"]:,} notes and {pairs["rows"]:,} related pairs from a click log, from the backbone
`{config["backbone"]}`{teacher}{went_on}.

```python
from notellm import NoteLLM, Note

model = NoteLLM.from_pretrained("{name}")
vectors = model.encode([Note(title="...", content="...", topics=("...",))])
```

Without notellm, send the text of `model.prompts(notes)` to any embedding server:

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("{name}").encode(prompts)
```

It chooses topics and categories among those of its training notes, of which it holds ids, topics, categories
and hashed words (`known.parquet`).

## Results

{results}
## Training

| option | value |
|---|---|
{options}

Data: notes `{notes["fingerprint"]}`, pairs `{pairs["fingerprint"]}` (fingerprints). Versions:
{", ".join(f"{package} {version}" for package, version in record["versions"].items())}.
"""


def ranker_card(name: str, record: dict[str, Any]) -> str:
    """Return the card of a ranker in Markdown, with the front matter that model hubs read.

    Args:
        name: name of the ranker.
        record: record of the ranker.
    """
    config, data, metrics = record["config"], record["data"], record["metrics"]
    alone = f"codes alone ({KINDS[config['collaborative']].label})"
    named = {"codes": alone, "untrained": "BinLLM before tuning", "validation": "BinLLM"}
    measured = "\n".join(
        f"| {method} | {metrics[key]['auc']:.4f} | {_cell(metrics[key].get('uauc'))} |"
        for key, method in named.items()
        if key in metrics
    )
    options = "\n".join(f"| {option} | {value} |" for option, value in config.items())
    tables = ", ".join(f"{table} `{about['fingerprint']}`" for table, about in data.items() if about)
    return f"""---
library_name: notellm
pipeline_tag: text-ranking
tags: [notellm, binllm, recommendation, ranking]
---

# {name}

A BinLLM (arXiv 2406.03210): a language model that says how likely a user is to enjoy a note, from the
titles of what the user liked and, unless its form is "text_only", from binary codes of the
collaborative signal. Tuned on
{data["train"]["rows"]:,} impressions of {data["notes"]["rows"]:,} notes, from the backbone
`{config["backbone"]}`. It holds the notes, and what each user liked.

```python
from notellm import Ranker

ranker = Ranker.from_pretrained("{name}")
ranking = ranker.rank("a user", ["a note", "another note"])
```

## Results

| {data["valid"]["rows"]:,} validation rows | AUC | UAUC |
|---|---:|---:|
{measured}

## Training

| option | value |
|---|---|
{options}

Data: {tables} (fingerprints). Versions:
{", ".join(f"{package} {version}" for package, version in record["versions"].items())}.
"""


def _cell(value: float | None) -> str:
    """Return a figure as a cell of a table."""
    return "-" if value is None else f"{value:.4f}"
