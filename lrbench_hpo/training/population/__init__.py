"""Many policies trained together on the same data."""
