"""
Load over REST and gRPC in the background, with a record of every request.
"""
