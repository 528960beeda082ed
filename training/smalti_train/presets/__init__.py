"""Named configurations: the command line's presets and the published models' recipes."""
