"""Which model made some vectors, and whether they belong to a model, by its fingerprint.

Vectors of two models do not mix, also where their dimensions agree: cosines between them mean nothing. A file
of vectors names its model in its record (``record.py``). Whoever puts vectors and a model together asks here.
"""

from pathlib import Path
from typing import Any

from notellm.errors import ConfigError, DataError
from notellm.lexical.hybrid import DEFAULT_SHARE, check_share
from notellm.record import read_record

_NO_MIX = "vectors of two models do not mix"


def maker_of(vectors: str | Path) -> str | None:
    """Return the fingerprint of the model that made a file of vectors; None if the file does not say.

    Raises:
        StorageError: if there is no such file.
    """
    try:
        record = read_record(vectors)
    except DataError:
        return None
    data: Any = record.get("data")
    model = data.get("model") if isinstance(data, dict) else None
    made_by = model.get("fingerprint") if isinstance(model, dict) else None
    return made_by if isinstance(made_by, str) else None


def share_of(vectors: str | Path) -> float:
    """Return the lexical share of the model that made a file of vectors; the default if the file has none."""
    try:
        share = read_record(vectors)["config"]["lexical_share"]
        check_share(float(share))
    except (ConfigError, DataError, KeyError, TypeError, ValueError):
        return DEFAULT_SHARE
    return float(share)


def check_maker(vectors: str | Path, made_by: str | None, model: str | Path, fingerprint: str) -> str | None:
    """Refuse vectors that another model made than the one that is to be used with them.

    Args:
        vectors: the file of vectors.
        made_by: from :func:`maker_of`.
        model: the model's directory.
        fingerprint: its fingerprint.

    Returns:
        A sentence for the user if the file does not say who made it, else None.

    Raises:
        DataError: if another model made them.
    """
    if made_by is None:
        return (
            f"{vectors} does not say which model made its vectors, so they may not be those of {model}; to "
            f"be sure, embed the notes again: notellm embed {model} NOTES -o {vectors}"
        )
    if made_by != fingerprint:
        raise DataError(
            f"{vectors} was made by the model {made_by}, not by {model}, which is {fingerprint}; {_NO_MIX}: "
            "give the model that made them, or embed the notes again: "
            f"notellm embed {model} NOTES -o {vectors}"
        )
    return None


def check_blend(
    fitted_to: str | None,
    made_by: str | None,
    *,
    ranker: str | Path = "the ranker",
    vectors: str | Path = "these vectors",
) -> str | None:
    """Refuse vectors of another model than the one to whose similarities a ranker's blend was fitted.

    Args:
        fitted_to: fingerprint of the model of the blend; None if the ranker does not say.
        made_by: fingerprint of the model of the vectors; None if unknown.
        ranker: the ranker's directory, for the message.
        vectors: the file of vectors, or the model, for the message.

    Returns:
        A sentence for the user if one of them is unknown, else None.

    Raises:
        DataError: if the models differ.
    """
    if fitted_to is None or made_by is None:
        silent = ranker if fitted_to is None else vectors
        return (
            f"the model behind {silent} is not known, so the blend of {ranker} may have been "
            f"fitted to other similarities than those of {vectors}; to be sure, embed the notes again "
            "(notellm embed) and train the ranker with these vectors (notellm rank train --vectors)"
        )
    if fitted_to != made_by:
        raise DataError(
            f"the blend of {ranker} was fitted to vectors of the model {fitted_to}, not to those of "
            f"{vectors}, whose model is {made_by}; {_NO_MIX}: give vectors of the former, or train the "
            "ranker again with those of the latter: notellm rank train --vectors"
        )
    return None
