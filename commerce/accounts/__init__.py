"""Accounts: tenants with their API keys, and the users who buy from them."""
