"""Measures Goodsyard, its peers and the machine's own limits, in turn, on the same servers."""
