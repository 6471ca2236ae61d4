"""Typed, validated configuration, with the Hydra groups and complete recipes."""

from photon.config.compose import load_config
from photon.config.schema import Config

__all__ = ["Config", "load_config"]
