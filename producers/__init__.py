"""The HTTP API: what other services, scripts and people put work in by, and look at it through.

``app`` puts it together. Each module of ``routes`` is one resource; the manners they share (who
asks, how often, with which key, what a refusal looks like) are the modules beside ``app``.
"""
