"""The service: an HTTP API and a web page over an `engine.engine.Engine`.

`routes/` has the routes and `schemas/` what they accept and answer; `app.py` puts them together. `guard.py`
is in front of them with keys, rates, bodies and limits; `connections.py` limits connections. `service.py` has
the queues, `batching.py` computes together what arrives together, `run.py` starts and stops the process, and
`page/` is the web page. Only this package and the command line know about HTTP.
"""
