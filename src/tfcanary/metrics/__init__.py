"""
Counts that servers keep of themselves.
"""
