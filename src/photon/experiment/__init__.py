"""One command put together: what a run needs before it starts, and its course from start to end."""
