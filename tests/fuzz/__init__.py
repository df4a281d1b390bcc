"""The API, told everything that its own document allows and much that it forbids."""
