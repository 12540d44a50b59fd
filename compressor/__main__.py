"""``python -m compressor``: the command line, where no script is on the PATH."""

from compressor.cli import main  # cli.py at the root is installed as this

if __name__ == "__main__":
    main()
