# The package holds definitions of styles in JSON and no code.
