"""`python -m inferlite`: the same as the `inferlite` command."""

from inferlite.cli import main

if __name__ == "__main__":
    main()
