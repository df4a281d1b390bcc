"""One process that plays a whole cluster, boundary by boundary, on a real Postgres."""
