"""Taskiq on a Redis list."""
