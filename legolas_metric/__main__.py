"""`python -m legolas_metric`: the command line, where the installed command is not on the path."""

from legolas_metric.cli.app import main

if __name__ == "__main__":
    main()
