"""
The chart's values: files, merging, and the schema.
"""
