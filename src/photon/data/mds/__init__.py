"""Data that was prepared for the original: MosaicML's streaming format, read only."""
