"""What leaked and what was lost: metrics, baselines, scorecard and report."""
