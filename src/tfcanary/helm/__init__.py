"""
Releases: every traffic change is a Helm revision.
"""
