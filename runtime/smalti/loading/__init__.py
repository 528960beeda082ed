"""Load a bundle: choose what runs it, by golden inputs and measured speed, and build the engines that are missing."""
