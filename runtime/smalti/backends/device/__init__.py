"""Runs that stay on a device from their first step to their pixels."""
