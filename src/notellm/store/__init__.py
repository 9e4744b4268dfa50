"""The durable store of notes and vectors. It needs LanceDB, an optional package.

``notes.py`` is the store, ``rows.py`` its notes as Arrow tables. ``tables.py`` lists, creates, repairs and
removes its LanceDB tables, ``upkeep.py`` tidies them, and ``lance.py`` is what all of them need of LanceDB.
``durable.py`` with ``checksums.py`` and ``manifest.py`` makes a local table survive a power failure.
The index that searches the vectors is in ``index/``; an index in memory works without LanceDB.
"""
