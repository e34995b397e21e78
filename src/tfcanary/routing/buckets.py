"""
The bucket of a user, as files/bucket.lua of the chart computes it at the gateway.
"""

BUCKETS = 100


def bucket(model: str, user: str) -> int:
    """
    The bucket of a user: what files/bucket.lua of the chart computes at the gateway.
    """
    number = 2166136261
    for byte in f"{model}:{user}".encode():
        number = ((number ^ byte) * 16777619) & 0xFFFFFFFF
    number = ((number ^ (number >> 16)) * 2246822507) & 0xFFFFFFFF
    number = ((number ^ (number >> 13)) * 3266489909) & 0xFFFFFFFF
    return (number ^ (number >> 16)) % BUCKETS


def bucket_header(model: str) -> str:
    """
    The header in which the gateway puts the bucket.
    """
    return f"x-bucket-{model.lower()}"
