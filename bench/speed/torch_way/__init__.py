"""What plain torch takes for the same pictures, beside smalti.

Nothing is imported here, for children that do without torch.
"""
