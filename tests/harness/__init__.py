"""Whole systems for tests: real processes, driven by signals and judged from outside."""
