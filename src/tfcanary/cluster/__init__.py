"""
A real Kubernetes with Istio on one Linux machine: no Docker, no image registry.

The node lives in namespaces of its own (PID, mount, network, UTS). Nothing on the host changes, the addresses are the
node's own, and ending its first process ends everything in it. The host sees two ports,
on 127.0.0.1: the apiserver and the ingress gateway.
"""
