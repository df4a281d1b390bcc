"""Laws of Goodsyard, each checked against real servers."""
