"""How long draws take: stages, sweeps, memory, a score that survives a change of machine load, a table and a plot."""
