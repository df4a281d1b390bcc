"""Several parts of Goodsyard, or one part and a server, together."""
