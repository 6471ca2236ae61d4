"""Models in and out: Hugging Face folders, warm starts, model cards, text from a saved model."""
