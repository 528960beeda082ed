"""How a bundle is proved: the certificate, and the golden inputs."""
