"""The version of notellm."""

__version__ = "0.1.0"
