"""Files, and what differs between operating systems."""
