"""Simple methods that a model has to beat, computed in the same run as the model.

For related notes, all of them by ``simple_scorers``: popularity ranks by clicks, the same for every query;
TF-IDF and BM25 compare texts, need no clicks and so work for cold notes; item co-occurrence compares who
clicked, and is for splits by time only.

Those for categories and topics are in ``tagging_baselines`` and ``tagging_classifier``.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from notellm.data.ids import Ids, as_array
from notellm.data.matrices import click_matrix
from notellm.data.split import Part
from notellm.evaluate.retrieval import Scorer, constant_scorer, sparse_cosine_scorer
from notellm.evaluate.tfidf import fitted_vectorizer
from notellm.lexical.index import LexicalIndex
from notellm.lexical.terms import texts_of

#: Names of the simple methods in tables.
CO_OCCURRENCE, TFIDF, BM25 = "item co-occurrence", "TF-IDF", "BM25"
#: Popularity that is counted on the very clicks that it is measured on; no service could rank by it.
OF_TEST_CLICKS = "popularity (of the test clicks)"


def simple_scorers(test: Part, train: Part) -> dict[str, Scorer]:
    """Return the simple methods for related notes of the test part by their names in tables.

    In a split by note, no training click is on a note of the pool, so popularity and co-occurrence know
    nothing. Popularity is then computed from the test clicks, which flatters it, and co-occurrence left out.

    Args:
        test: the test part, whose notes are the pool.
        train: the train part.

    Raises:
        DataError: if no note has a text.
    """
    ids = test.notes.column("note_id")
    train_clicks = popularity(ids, train.clicks)
    if train_clicks.any():
        scorers = {
            "popularity (train clicks)": constant_scorer(train_clicks),
            CO_OCCURRENCE: sparse_cosine_scorer(click_matrix(ids, train.clicks)),
        }
    else:
        scorers = {OF_TEST_CLICKS: constant_scorer(popularity(ids, test.clicks))}
    scorers[TFIDF] = sparse_cosine_scorer(tfidf_matrix(test.notes, train.notes))
    scorers[BM25] = bm25_scorer(test.notes, train.notes)
    return scorers


def popularity(pool_ids: Ids, clicks: pa.Table) -> npt.NDArray[np.float32]:
    """Return the number of clicks on each note of the pool, float32 (pool,).

    It is also the exposure of ``evaluate_related``.

    Args:
        pool_ids: ids of the pool's notes.
        clicks: table with the schema CLICKS; rows of other events or notes do not count. For the baseline
            give the clicks of train; for exposure, those of the part under evaluation.
    """
    clicked = clicks.filter(pc.equal(clicks["event"], "click"))
    note = pc.index_in(clicked["note_id"], value_set=as_array(pool_ids)).drop_null().to_numpy()
    return np.bincount(note, minlength=len(pool_ids)).astype(np.float32)


def bm25_scorer(notes: pa.Table, train_notes: pa.Table | None = None) -> Scorer:
    """Return a scorer by BM25 of title, topics and content, as a share of the query's own (``lexical``).

    Args:
        notes: the pool, schema NOTES.
        train_notes: more notes to count the frequencies of terms over, schema NOTES.
    """
    ids, texts = [f"pool {row}" for row in range(notes.num_rows)], texts_of(notes)
    more = texts_of(train_notes) if train_notes is not None else []
    index = LexicalIndex([*ids, *(f"train {row}" for row in range(len(more)))], [*texts, *more])
    return lambda queries: index.scores([texts[row] for row in queries.tolist()], ids)


def tfidf_matrix(notes: pa.Table, train_notes: pa.Table | None = None) -> sparse.csr_array:
    """Return TF-IDF vectors of title, topics and content, float32 (notes, terms), of unit norm.

    Document frequencies are counted over the texts of the pool and of train. A running system knows the text
    of every published note, so this leaks nothing. A term in a text counts 1 + log(number of occurrences).

    Args:
        notes: the pool, schema NOTES.
        train_notes: more notes to count document frequencies over, schema NOTES.

    Raises:
        DataError: if no note has a text.
    """
    texts = texts_of(notes)
    more = texts_of(train_notes) if train_notes is not None else []
    return sparse.csr_array(fitted_vectorizer(texts + more).transform(texts))
