"""The service: an HTTP API and a web page over a `engine.engine.Engine`.

``app.py`` has the routes, ``schemas.py`` what they take and give, ``answers.py`` and ``quick.py`` how answers
are written, ``service.py`` the queues, ``batching.py`` computes together what arrives together, ``guard.py``
stands before every request (keys, limits, time, metrics, log), ``run.py`` starts and stops it, ``page/`` is
the web page. Only these files and the command line know about HTTP.
"""
