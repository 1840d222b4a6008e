"""One file per command, each with ``run(config) -> exit code``."""
