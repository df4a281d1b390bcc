"""Notifications: what customers are told, and the way it gets to them."""
