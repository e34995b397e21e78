"""
A server that speaks TensorFlow Serving's command line, REST and gRPC API, for where its image cannot be had.

See README.md beside this file for what it does differently and what it does not do.
"""

from tfcanary.modelserver.command import main

__all__ = ["main"]
