"""The guards of the promise, each switched off once: a suite that can't fail proves nothing."""
