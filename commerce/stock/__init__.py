"""Stock: what is on the shelf, and how much of it is set aside for orders."""
