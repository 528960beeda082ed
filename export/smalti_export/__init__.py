"""Turn trained models into smalti bundles."""

import os

# As smalti.backends.onnxruntime_cpu does, for the modules here that import ONNX Runtime themselves: it keeps nothing
# about the user.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
