"""One YAML file, or layers of them, checked once into one frozen object."""
