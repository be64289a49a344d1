"""``python -m tokenmill_pipelines.cli`` is ``tokenmill``."""

from tokenmill_pipelines.cli import main

if __name__ == "__main__":
    main()
