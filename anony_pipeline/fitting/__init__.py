"""Small supervised training loops: the judges, the detector and the base generator."""
