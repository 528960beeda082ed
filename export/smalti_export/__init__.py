"""Turn trained models into smalti bundles."""
