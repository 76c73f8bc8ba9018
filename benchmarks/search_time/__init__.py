"""Wall time until a search has a good policy."""
