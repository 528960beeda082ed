"""One web application: a page to paint on, and an interface for programs."""
