"""How each family of priors draws its tokens: settings, layout of runs, samplers."""
