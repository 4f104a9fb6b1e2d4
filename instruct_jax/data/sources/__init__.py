"""Other people's published data, read into records."""
