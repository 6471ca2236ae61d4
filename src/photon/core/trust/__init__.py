"""Who is believed: scores of updates beside each other, and clients that fail repeatedly."""
