"""Pictures as files that remember how they were made."""
