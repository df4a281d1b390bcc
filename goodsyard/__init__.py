"""The durable job engine: an accepted job takes effect exactly once, whatever dies on the way.

Start with ``contracts`` (what a job is), ``outcomes`` (how it ends), ``submit`` (how it gets in),
``dispatch`` (how it reaches a worker), ``execution`` (how it takes effect) and ``sweeper`` (how it
comes back when a worker, a message or all of Redis is lost).
"""
