"""
Prove at the gateway what the routes do.
"""
