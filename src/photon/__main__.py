"""`python -m photon` is the `photon` command."""

from photon.cli.main import main

if __name__ == "__main__":
    main()
