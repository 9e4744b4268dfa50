"""The durable store of notes and vectors, and the index that searches them.

``notes.py`` is the store (LanceDB), ``base.py`` the interface of an index, ``local.py`` (exact or HNSW, in
process) and ``milvus.py`` its implementations, ``filters.py`` what a search may be held to, ``select.py``
near-duplicate removal and diversity. Nothing is imported from here: a store needs an extra, an index in
process does not.
"""
