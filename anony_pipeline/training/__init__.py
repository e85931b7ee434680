"""Pretraining and joint alternating training: resumable, journaled, free of any orchestrator."""
