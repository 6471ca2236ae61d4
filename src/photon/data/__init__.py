"""From text to token rows on disk, and back in an addressed order."""
