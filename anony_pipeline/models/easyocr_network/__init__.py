"""The folder that EasyOCR is given as ``user_network_directory``: its custom network of license plates."""
