"""Evidence that a bundle matches its models: the parity certificate and the golden inputs."""
