"""The order chain with no job system: what this machine can do at most, one by one and set-wise."""
