"""``python -m anony_pipeline`` and the command ``anony``."""

from anony_pipeline.cli import main

if __name__ == "__main__":
    main()
