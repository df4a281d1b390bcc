"""What Goodsyard is measured beside: each system in a folder and an environment of its own."""
