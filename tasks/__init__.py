"""The flow of an order: every job's contract in ``contracts``, its handler beside it.

Adding a kind of job is one contract, one handler in ``flow`` and one test.
"""
