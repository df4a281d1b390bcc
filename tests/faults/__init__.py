"""What is killed, frozen, flushed or flooded in the middle changes nothing in the end."""
