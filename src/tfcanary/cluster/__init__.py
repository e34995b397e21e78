"""
A real Kubernetes with Istio on one Linux machine: no Docker, no image registry.

The node lives in namespaces of its own (PID, mount, network, UTS): nothing on the host changes, its
addresses are its own, and ending its first process ends everything in it. The host sees two ports,
on 127.0.0.1: the apiserver and the ingress gateway.
"""
