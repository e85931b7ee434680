"""Boxes and regions: the words in which all other folders speak of places in an image."""
