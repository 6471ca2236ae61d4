"""The outer loop with its effects, and what delivers instructions to nodes and updates back."""
