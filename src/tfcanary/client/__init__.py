"""
Ask a model over REST and gRPC, with one kind of answer.
"""
