"""What a run needs to know of the machine and of chance."""
