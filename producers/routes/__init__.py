"""One module a resource; each handler reads like the sentence that describes its call."""
