"""`python -m meshlib` is the `meshlib` command."""

from meshlib.cli import main

if __name__ == "__main__":
    main()
