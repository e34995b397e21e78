"""
Release TensorFlow models behind one Istio gateway, on evidence.
"""

from pathlib import Path

# The checkout: the chart, the values files and the images lie beside the code and are not packaged with it.
REPOSITORY = Path(__file__).resolve().parents[2]
