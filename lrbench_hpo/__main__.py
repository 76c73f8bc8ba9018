"""``python -m lrbench_hpo``: the command line."""

from lrbench_hpo.cli import main

if __name__ == "__main__":
    main()
