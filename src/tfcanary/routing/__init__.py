"""
Routes: what the values say, who takes a request, and requests that prove it. Pure: no network.
"""
