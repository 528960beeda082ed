"""Turn trained models into smalti bundles."""

import os

# Some modules here import ONNX Runtime themselves. As in smalti.backends.onnxruntime_cpu, keep it from storing data
# about the user.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
