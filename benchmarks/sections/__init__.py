"""How Goodsyard's own figures are taken: each run is real processes on a database of its own."""
