"""File formats that runs are read from and written to."""
