"""
Live objects, read through the Kubernetes API.
"""
