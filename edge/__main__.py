"""`python -m edge` is the command `labedge`."""

from edge.cli import main

if __name__ == "__main__":
    main(prog_name="labedge")
