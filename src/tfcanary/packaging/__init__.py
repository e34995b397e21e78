"""
A release as others get it: the same whoever makes it, described part by part, and signed.
"""
