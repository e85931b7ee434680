"""The Dagster layer: thin. An asset asks its resources, calls one library function and reports."""
