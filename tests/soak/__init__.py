"""Everything that can go wrong, at random, for as long as is asked; and what came of it."""
