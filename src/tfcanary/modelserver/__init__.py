"""
A server with TensorFlow Serving's command line, REST API and gRPC API, for machines that cannot have its image.

docs/reference/model-server.md says what is the same, what differs, and what is absent.
"""

from tfcanary.modelserver.command import main

__all__ = ["main"]
