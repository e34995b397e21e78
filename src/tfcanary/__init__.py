"""
Release TensorFlow models behind one Istio gateway, on evidence.
"""
