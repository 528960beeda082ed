"""Turn trained models into smalti bundles."""

import os

# As in smalti.backend, for the modules here that import ONNX Runtime themselves: nothing is kept about the user.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
