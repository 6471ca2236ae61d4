"""`python -m photon` is the `photon` command."""

import sys


def main() -> None:
    """Run the command line and exit; Ctrl-C counts while that is still being loaded, too."""
    try:
        from photon.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("photon: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
