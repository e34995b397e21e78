"""
SavedModels: made, inspected, compared and kept.
"""
