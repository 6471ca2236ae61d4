"""Local training: the inner loop, its optimizer and its schedule."""
